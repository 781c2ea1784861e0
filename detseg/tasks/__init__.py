"""LightningModules: what is trained, how it is validated, what its checkpoints carry."""

from torch import nn

from detseg.models import RCNN, Classifier, Detector, Segmenter
from detseg.tasks.base import Task
from detseg.tasks.classification import ClassificationTask
from detseg.tasks.detection import DetectionTask
from detseg.tasks.rcnn import RCNNTask
from detseg.tasks.segmentation import SegmentationTask

# What trains a network of each kind; the first that it is of counts.
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
    "RCNNTask",
    "SegmentationTask",
    "Task",
]
