"""Predictions with exported models, without torch: ``detseg.runtime.Predictor("best.onnx")("photo.jpg")``."""

from detseg.runtime.engines import Engine, open_engine
from detseg.runtime.predictor import Predictor

__all__ = ["Engine", "Predictor", "open_engine"]
