"""The base of metrics that have one value for the whole data set and one for each class."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torchmetrics import Metric

from detseg.configurable import Configurable


class PerClassMetric(Metric, Configurable):
    """A torchmetrics ``Metric`` whose ``compute`` returns a flat dictionary of floats.

    A task takes any metrics, ``DetectionTask(model, metrics=[CocoAP(), MyMetric()])``. This class adds a table of the
    classes; ``DetectionMetric`` also keeps the detections and the objects of all batches.
    Values of a class are named ``NAME/CLASS``, after ``classes``. A value that nothing defines is NaN and is left out
    of means. Arguments of ``torchmetrics.Metric`` may be passed by keyword. A checkpoint contains all arguments, so
    that an evaluation can build the metric again.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    monitor_metrics: tuple[str, ...] = ()
    """Values to report after each epoch; the first one decides which checkpoint is the best."""
    columns: Mapping[str, str] = MappingProxyType({})
    """Columns of the table of classes: heading and name of the value."""

    def __init__(self, classes: Sequence[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classes: tuple[str, ...] = ()
        if classes is not None:
            self.set_classes(classes)

    def set_classes(self, classes: Sequence[str]) -> None:
        """Name the classes 0..K-1."""
        self.classes = tuple(classes)

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Compute all values over all ranks."""

    def summary(self, values: Mapping[str, float]) -> list[str]:
        """Format the values over all classes, line by line."""
        return []


def defined_mean(values: ArrayLike) -> float:
    """The mean of the values that are not NaN; NaN if there are none."""
    values = np.asarray(values, dtype=np.float64)
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
