"""LightningModules: what is trained, how it is validated, what its checkpoints carry."""

from torch import nn

from detseg.models import RCNN, Classifier, Detector, Segmenter
from detseg.tasks.base import Task
from detseg.tasks.classification import Answer, Classification
from detseg.tasks.detection import Detection
from detseg.tasks.rcnn import RCNNTraining
from detseg.tasks.segmentation import Segmentation, Segmented

# What trains a network of each kind; the first that it is of counts.
TASKS: dict[type[nn.Module], type[Task]] = {
    RCNN: RCNNTraining,
    Detector: Detection,
    Classifier: Classification,
    Segmenter: Segmentation,
}

__all__ = [
    "TASKS",
    "Answer",
    "Classification",
    "Detection",
    "RCNNTraining",
    "Segmentation",
    "Segmented",
    "Task",
]
