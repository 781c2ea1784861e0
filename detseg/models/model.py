"""The base class of detectors, segmenters and classifiers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn

from detseg.configurable import Configurable
from detseg.preprocessing import Preprocessing


class Model(nn.Module, Configurable):
    """A network with everything that a prediction needs besides its weights.

    ``class_names`` are in the order of the labels, ``category_ids`` the data set's own numbers of these classes;
    ``preprocessing`` is how images were resized for evaluation. A training sets them from its data, and checkpoints
    and published folders store them.
    """

    num_classes: int
    class_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    preprocessing: Preprocessing = None

    def metadata(self) -> dict[str, Any]:
        """Describe the classes and the preprocessing in plain values, for ``set_metadata``."""
        return {
            "classes": list(self.class_names),
            "category_ids": list(self.category_ids),
            "preprocessing": dataclasses.asdict(self.preprocessing) if self.preprocessing else None,
        }

    def set_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Restore what ``metadata`` described. Raises TypeError or ValueError for values that do not fit the model."""
        self.class_names = tuple(map(str, metadata["classes"]))
        self.category_ids = tuple(map(int, metadata["category_ids"]))
        if self.preprocessing is not None and metadata["preprocessing"] is not None:
            self.preprocessing = dataclasses.replace(self.preprocessing, **metadata["preprocessing"])
