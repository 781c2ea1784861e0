"""Settings that turn an image into a model's input. A model owns them, since its weights depend on them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class _Settings:
    """Raises ValueError, naming the field, for a value that is not a positive whole number."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value: Any = getattr(self, field.name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{field.name} is {value}, and must be a whole number of at least 1")


@dataclass(frozen=True)
class ResizeConfig(_Settings):
    """Resize the short edge to ``min_size`` pixels, or less where the long edge would exceed ``max_size``."""

    min_size: int = 800
    max_size: int = 1333


@dataclass(frozen=True)
class CenterCropConfig(_Settings):
    """Crop the central square, 7/8 of the short edge, and resize it to ``size`` x ``size`` pixels."""

    size: int = 224


Preprocessing = ResizeConfig | CenterCropConfig | None  # None: images keep their size
