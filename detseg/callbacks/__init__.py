"""Lightning callbacks: checkpoints, pictures, progress, data loading."""

from detseg.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from detseg.callbacks.data_loading import DataLoadingMonitor
from detseg.callbacks.moving_average import exponential_moving_average
from detseg.callbacks.output_recorder import OutputRecorder
from detseg.callbacks.prediction_images import PredictionImages
from detseg.callbacks.progress import ProgressBar, ProgressLog

__all__ = [
    "BestCheckpoint",
    "DataLoadingMonitor",
    "LastCheckpoint",
    "OutputRecorder",
    "PredictionImages",
    "ProgressBar",
    "ProgressLog",
    "exponential_moving_average",
]
