"""Lightning callbacks: checkpoints, pictures, progress, data loading."""

from detseg.callbacks.data_loading import DataLoadingMonitor
from detseg.callbacks.training import BestCheckpoint, LastCheckpoint, PredictionImages, ProgressBar, ProgressLog

__all__ = ["BestCheckpoint", "DataLoadingMonitor", "LastCheckpoint", "PredictionImages", "ProgressBar", "ProgressLog"]
