"""Data sets: annotations, formats, transforms, loading, and the data modules that join them.

Names are imported on first use (see ``__init__.pyi``), so that reading annotations needs neither torch nor lightning.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def import_all() -> None:
    """Import every name, so that descriptions and the command line find the classes by their names."""
    for name in __all__:
        __getattr__(name)
