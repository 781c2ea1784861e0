from .annotations.detection import DetectionAnnotations as DetectionAnnotations
from .annotations.semantic import SemanticAnnotations as SemanticAnnotations
from .annotations.table import ClassificationIndex as ClassificationIndex
from .formats import FORMATS as FORMATS
from .formats.base import DatasetFormat as DatasetFormat
from .formats.base import DatasetSource as DatasetSource
from .loading.collate import collate as collate
from .loading.samplers import ClassBalanced as ClassBalanced
from .loading.samplers import ImageSampling as ImageSampling
from .loading.samplers import RepeatFactor as RepeatFactor
from .modules.classification import ClassificationDataModule as ClassificationDataModule
from .modules.detection import COCO as COCO
from .modules.detection import VOC as VOC
from .modules.detection import DetectionDataModule as DetectionDataModule
from .modules.segmentation import SegmentationDataModule as SegmentationDataModule
from .modules.shapes import ShapeCrops as ShapeCrops
from .modules.shapes import Shapes as Shapes
from .modules.shapes import ShapesSegmentation as ShapesSegmentation
from .transforms.albumentations import Albumentations as Albumentations
from .transforms.geometry import ImageSample as ImageSample
from .transforms.mixing import CopyPaste as CopyPaste
from .transforms.mixing import LargeScaleJitter as LargeScaleJitter
from .transforms.mixing import Mosaic as Mosaic
from .transforms.transform import MixTransform as MixTransform
from .transforms.transform import RandomHorizontalFlip as RandomHorizontalFlip
from .transforms.transform import RandomResizedCrop as RandomResizedCrop
from .transforms.transform import RandomScaleCrop as RandomScaleCrop
from .transforms.transform import Resize as Resize
from .transforms.transform import Tiles as Tiles
from .transforms.transform import Transform as Transform

__all__: list[str]

def import_all() -> None: ...
