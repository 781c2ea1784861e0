"""Predictions: `detseg.load` gives a `Predictor`, which gives results.

Names are imported on first use (see ``__init__.pyi``), so that results need no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
