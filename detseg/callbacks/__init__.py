"""Lightning callbacks: checkpoints, pictures, progress, data loading."""

from detseg.callbacks.data_loading import DataWait
from detseg.callbacks.training import BestCheckpoint, LastCheckpoint, Pictures, ProgressBar, ProgressLog

__all__ = ["BestCheckpoint", "DataWait", "LastCheckpoint", "Pictures", "ProgressBar", "ProgressLog"]
