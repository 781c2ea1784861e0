"""LightningModules: what is trained, how it is validated, what its checkpoints carry."""

from torch import nn

from detseg.models import RCNN, Classifier, Detector, Segmenter
from detseg.tasks.callbacks import BestCheckpoint, LastCheckpoint, Pictures, ProgressBar, ProgressLog
from detseg.tasks.classification import Answer, Classification
from detseg.tasks.detection import Detection
from detseg.tasks.prediction import Prediction, find_images, predict
from detseg.tasks.rcnn import RCNNTraining
from detseg.tasks.segmentation import Segmentation, Segmented
from detseg.tasks.task import Task
from detseg.tasks.views import Views
from detseg.tasks.waiting import DataWait

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
    "BestCheckpoint",
    "Classification",
    "DataWait",
    "Detection",
    "LastCheckpoint",
    "Pictures",
    "Prediction",
    "ProgressBar",
    "ProgressLog",
    "RCNNTraining",
    "Segmentation",
    "Segmented",
    "Task",
    "Views",
    "find_images",
    "predict",
]
