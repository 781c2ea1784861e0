"""LightningModules: what is trained, how it is validated, what its checkpoints carry."""

from detseg.tasks.callbacks import BestCheckpoint, LastCheckpoint, Pictures, ProgressBar, ProgressLog
from detseg.tasks.detection import Detection
from detseg.tasks.prediction import Prediction, find_images, predict

__all__ = [
    "BestCheckpoint",
    "Detection",
    "LastCheckpoint",
    "Pictures",
    "Prediction",
    "ProgressBar",
    "ProgressLog",
    "find_images",
    "predict",
]
