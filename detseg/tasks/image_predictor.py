"""Validation with whatever predicts on images, such as an ensemble or tiles, in place of the model of a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.structures import Batch

Predict = Callable[[Sequence[NDArray[np.uint8]]], Sequence[Any]]


class ImagePredictor:
    """Predict on the validation images of ``data`` at their full size, and return a result for each.

    ``predict`` maps RGB images (h, w, 3) to results such as those of ``detseg.inference``.
    """

    def __init__(self, predict: Predict, data: Any) -> None:
        self.predict, self.data = predict, data

    @cached_property
    def _dataset(self) -> Any:
        return self.data.dataset("val")

    def __call__(self, batch: Batch) -> Sequence[Any]:
        """Predict on the images of a batch, as they are in their files."""
        return self.predict([self._dataset.read(row).image for row in batch.image_index.tolist()])
