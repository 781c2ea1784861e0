from .loading import load as load
from .predictor import Predictor as Predictor
from .predictor import TTAConfig as TTAConfig
from .results import ClassificationResult as ClassificationResult
from .results import DetectionResult as DetectionResult
from .results import Result as Result
from .results import SemanticResult as SemanticResult

__all__: list[str]
