"""LightningModules that train and evaluate models."""

from torch import nn

from detseg import data
from detseg.models import RCNN, Classifier, Detector, Segmenter
from detseg.tasks.base import Task
from detseg.tasks.classification import ClassificationTask
from detseg.tasks.detection import DetectionTask
from detseg.tasks.optimization import OptimizerConfig, ScheduleConfig
from detseg.tasks.rcnn import RCNNTask
from detseg.tasks.segmentation import SegmentationTask

data.import_all()

# The task of each kind of model; the first that fits counts.
TASKS: dict[type[nn.Module], type[Task]] = {
    RCNN: RCNNTask,
    Detector: DetectionTask,
    Classifier: ClassificationTask,
    Segmenter: SegmentationTask,
}

__all__ = [
    "TASKS",
    "ClassificationTask",
    "DetectionTask",
    "OptimizerConfig",
    "RCNNTask",
    "ScheduleConfig",
    "SegmentationTask",
    "Task",
]
