"""LightningModules: what is trained, how it is validated, what its checkpoints carry."""

from torch import nn

from detseg.models import RCNN, Classifier, Detector
from detseg.tasks.callbacks import BestCheckpoint, LastCheckpoint, Pictures, ProgressBar, ProgressLog
from detseg.tasks.classification import Answer, Classification
from detseg.tasks.detection import Detection
from detseg.tasks.prediction import Prediction, find_images, predict
from detseg.tasks.rcnn import RCNNTraining
from detseg.tasks.task import Task

# What trains a network of each kind; the first that it is of counts.
TASKS: dict[type[nn.Module], type[Task]] = {RCNN: RCNNTraining, Detector: Detection, Classifier: Classification}

__all__ = [
    "TASKS",
    "Answer",
    "BestCheckpoint",
    "Classification",
    "Detection",
    "LastCheckpoint",
    "Pictures",
    "Prediction",
    "ProgressBar",
    "ProgressLog",
    "RCNNTraining",
    "Task",
    "find_images",
    "predict",
]
