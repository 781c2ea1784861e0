"""Formats of data sets, one file each.

``FORMATS`` is the list of all formats that the package knows; append your own ``DatasetFormat`` to add one. Where a
folder matches several formats of semantic segmentation, the first is taken.
"""

from detseg.data.formats.ade20k import Ade20kFormat
from detseg.data.formats.base import DatasetFormat
from detseg.data.formats.camvid import CamVidFormat
from detseg.data.formats.cityscapes import CityscapesFormat, CityscapesSemanticFormat
from detseg.data.formats.coco.detection import CocoFormat
from detseg.data.formats.coco.semantic import CocoSemanticFormat
from detseg.data.formats.createml import CreateMlFormat
from detseg.data.formats.csv import CsvFormat
from detseg.data.formats.cvat import CvatFormat
from detseg.data.formats.image_folders import ImageFoldersFormat
from detseg.data.formats.image_masks import ImageMasksFormat
from detseg.data.formats.kitti import KittiFormat
from detseg.data.formats.label_studio import LabelStudioFormat
from detseg.data.formats.labelme import LabelMeFormat
from detseg.data.formats.lvis import LvisFormat
from detseg.data.formats.open_images import OpenImagesFormat
from detseg.data.formats.oxford_pet import OxfordPetFormat
from detseg.data.formats.penn_fudan import PennFudanFormat
from detseg.data.formats.via import ViaFormat
from detseg.data.formats.visdrone import VisDroneFormat
from detseg.data.formats.voc.detection import VocFormat
from detseg.data.formats.voc.semantic import VocSemanticFormat
from detseg.data.formats.wider_face import WiderFaceFormat
from detseg.data.formats.yolo import YoloFormat

FORMATS: list[DatasetFormat] = [
    CocoFormat(),
    VocFormat(),
    YoloFormat(),
    LabelMeFormat(),
    CsvFormat(),
    CityscapesFormat(),
    LvisFormat(),
    OpenImagesFormat(),
    CvatFormat(),
    ViaFormat(),
    LabelStudioFormat(),
    CreateMlFormat(),
    KittiFormat(),
    VisDroneFormat(),
    WiderFaceFormat(),
    PennFudanFormat(),
    ImageMasksFormat(),
    CityscapesSemanticFormat(),
    CamVidFormat(),
    Ade20kFormat(),
    OxfordPetFormat(),
    VocSemanticFormat(),
    CocoSemanticFormat(),
    ImageFoldersFormat(),
]
