from .annotations.classification import ClassificationIndex as ClassificationIndex
from .annotations.detection import DetectionAnnotations as DetectionAnnotations
from .annotations.semantic import SemanticAnnotations as SemanticAnnotations
from .formats import FORMATS as FORMATS
from .formats.base import DatasetFormat as DatasetFormat
from .formats.base import DatasetSource as DatasetSource
from .loading.collate import collate as collate
from .loading.repeat_factors import ClassBalanced as ClassBalanced
from .loading.repeat_factors import ImageSampling as ImageSampling
from .loading.repeat_factors import RepeatFactor as RepeatFactor
from .modules.classification import ClassificationDataModule as ClassificationDataModule
from .modules.detection import COCO as COCO
from .modules.detection import VOC as VOC
from .modules.detection import DetectionDataModule as DetectionDataModule
from .modules.segmentation import SegmentationDataModule as SegmentationDataModule
from .modules.shapes import ShapeCrops as ShapeCrops
from .modules.shapes import Shapes as Shapes
from .modules.shapes import ShapesSegmentation as ShapesSegmentation
from .transforms.detection import Transforms as Transforms
from .transforms.mixing import MixingTransforms as MixingTransforms
from .transforms.segmentation import SegmentationTransforms as SegmentationTransforms

__all__: list[str]
