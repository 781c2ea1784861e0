from .archives import ImageContent as ImageContent
from .loading import load as load
from .predictor import Predictor as Predictor
from .predictor import TTAConfig as TTAConfig
from .ray import RayPredictor as RayPredictor
from .results import ClassificationResult as ClassificationResult
from .results import DetectionResult as DetectionResult
from .results import FailedImage as FailedImage
from .results import Result as Result
from .results import SemanticResult as SemanticResult
from .tiling import Tiling as Tiling
from .views import MultiViewPredictor as MultiViewPredictor

__all__: list[str]
