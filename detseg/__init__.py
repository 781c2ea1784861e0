"""Detection and segmentation, from R-CNN to Mask R-CNN, on PyTorch Lightning.

Names are imported on first use (see ``__init__.pyi``), so that importing the package loads no library.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
