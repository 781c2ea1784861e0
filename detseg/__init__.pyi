from .data import COCO as COCO
from .data import VOC as VOC
from .data import Shapes as Shapes
from .inference import Predictor as Predictor
from .inference import load as load
from .models import FCN as FCN
from .models import RCNN as RCNN
from .models import FasterRCNN as FasterRCNN
from .models import FastRCNN as FastRCNN
from .models import MaskRCNN as MaskRCNN
from .models import RetinaNet as RetinaNet
from .tasks import DetectionTask as DetectionTask
from .tasks import SegmentationTask as SegmentationTask

__all__: list[str]
__version__: str
