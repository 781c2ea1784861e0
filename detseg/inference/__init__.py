"""Predictions: `detseg.load` gives a `Predictor`, which gives results."""

from detseg.inference.loading import load
from detseg.inference.predictor import Predictor
from detseg.inference.results import ClassificationResult, DetectionResult, Result, SemanticResult
from detseg.models.tta import TTAConfig

__all__ = [
    "ClassificationResult",
    "DetectionResult",
    "Predictor",
    "Result",
    "SemanticResult",
    "TTAConfig",
    "load",
]
