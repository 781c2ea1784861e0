"""IoU of semantic segmentation: counts of pixels over a whole data set, and the metrics that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detseg.metrics.base import PerClassMetric, defined_mean
from detseg.metrics.table import format_values
from detseg.structures import IGNORE_INDEX

BOUNDARY = 0.02  # width of the boundary, as a share of the diagonal of the image (Cheng et al. 2021)
OVERALL = ("pixel_accuracy", "mean_accuracy", "mean_IoU", "frequency_weighted_IoU", "mean_boundary_IoU")


class SemanticIoU(PerClassMetric):
    """The four metrics of FCN (Long et al. 2015, section 5) and the boundary IoU (Cheng et al. 2021), between 0 and 1.

    ``compute`` gives ``pixel_accuracy``, ``mean_accuracy``, ``mean_IoU``, ``frequency_weighted_IoU``,
    ``mean_boundary_IoU``; then ``IoU/CLASS``, ``accuracy/CLASS`` and ``boundary_IoU/CLASS``. NaN are the IoU of a class
    that neither labels nor predictions have, and the accuracy of one that the labels do not have.

    The boundary IoU is the IoU of those pixels of a class that are within 2 % of the image's diagonal from its edge.

    The states are counts of pixels, integers: for any batches and any number of ranks the values are the same to the
    last bit. An update never waits for the device.
    """

    matrix: Tensor  # (K, K) pixels by label and prediction
    invalid: Tensor  # () pixels whose label or prediction is no class
    boundaries: Tensor  # (3, K) pixels at the boundary of each class: in the labels, in the predictions, in both
    monitor_metrics = ("mean_IoU", "pixel_accuracy")
    columns = MappingProxyType({"IoU": "IoU", "accuracy": "accuracy", "boundary IoU": "boundary_IoU"})

    def set_classes(self, classes: Sequence[str]) -> None:
        count = len(classes)
        if count != len(self.classes):
            for name, shape in (("matrix", (count, count)), ("boundaries", (3, count)), ("invalid", ())):
                self.add_state(name, torch.zeros(shape, dtype=torch.int64, device=self.device), dist_reduce_fx="sum")
        super().set_classes(classes)

    def update(self, preds: Tensor, target: Tensor, sizes: Tensor | None = None) -> None:
        """Count predicted classes and labels (B, H, W); labels of ``IGNORE_INDEX`` do not count.

        ``sizes`` (B, 2) are heights and widths without padding, by default those of the tensors.
        """
        if not self.classes:
            raise ValueError("SemanticIoU needs the names of the classes: SemanticIoU(classes)")
        if sizes is None:
            sizes = torch.tensor(target.shape[1:], device=target.device).expand(len(target), 2)
        count = len(self.classes)
        preds, valid = preds.to(torch.int64), target != IGNORE_INDEX
        classes = (preds >= 0) & (preds < count) & (target >= 0) & (target < count)
        self.invalid += (valid & ~classes).sum()  # raised by ``compute``, which waits for the device
        valid &= classes
        self.matrix += pixel_matrix(preds, target, count)
        at_label, at_prediction = (_at_boundary(labels, sizes) & valid for labels in (target, preds))
        both = at_label & at_prediction & (target == preds)
        self.boundaries += torch.stack(
            [
                _histogram(target, at_label, count),
                _histogram(preds, at_prediction, count),
                _histogram(target, both, count),
            ]
        )

    def compute(self) -> dict[str, float]:
        """Return the metrics by name. Raises ValueError for a label or a prediction that was no class."""
        if invalid := int(self.invalid):
            raise ValueError(f"{invalid} pixels have a label or a prediction outside of 0 to {len(self.classes) - 1}")
        matrix = self.matrix.cpu().numpy()
        correct, labelled = np.diag(matrix), matrix.sum(axis=1)
        at_label, at_prediction, both = self.boundaries.cpu().numpy()
        iou = class_iou(matrix)
        accuracy = ratio(correct, labelled)
        boundary = ratio(both, at_label + at_prediction - both)
        weighted = ratio((labelled * np.nan_to_num(iou)).sum(), labelled.sum())
        means = defined_mean(accuracy), defined_mean(iou), weighted, defined_mean(boundary)
        values = dict(zip(OVERALL, (ratio(correct.sum(), labelled.sum()), *means), strict=True))
        for metric, per_class in (("IoU", iou), ("accuracy", accuracy), ("boundary_IoU", boundary)):
            values |= {f"{metric}/{name}": value for name, value in zip(self.classes, per_class, strict=True)}
        return {name: float(value) for name, value in values.items()}

    def summary(self, values: Mapping[str, float]) -> list[str]:
        return format_values({name.replace("_", " "): values[name] for name in OVERALL if name in values})


def pixel_matrix(preds: Tensor, target: Tensor, classes: int) -> Tensor:
    """Count pixels (K, K) by label and prediction; those where either is none of ``classes`` do not count."""
    valid = (preds >= 0) & (preds < classes) & (target >= 0) & (target < classes)
    return _histogram(target * classes + preds, valid, classes * classes).view(classes, classes)


def _histogram(values: Tensor, counted: Tensor, bins: int) -> Tensor:
    """Count each of 0..bins-1 among the ``counted`` values. (torch.bincount would wait for the device.)"""
    index = torch.where(counted, values, bins).flatten()
    counts = torch.zeros(bins + 1, dtype=torch.int64, device=values.device)
    return counts.index_add_(0, index, counts.new_ones(()).expand(len(index)))[:bins]


def _at_boundary(classes: Tensor, sizes: Tensor) -> Tensor:
    """Mark the pixels (B, H, W) near the edge of the region of their class, or of the image inside the padding.

    A region's inside is what is left when its outermost pixels are taken off (a 3 x 3 erosion) as many times as the
    boundary is wide; the rest is its boundary.
    """
    down, across = (torch.arange(length, device=classes.device) for length in classes.shape[1:])
    sizes = sizes.to(classes.device)
    shown = (down[:, None] < sizes[:, 0, None, None]) & (across < sizes[:, 1, None, None])
    widths = (BOUNDARY * sizes.to(torch.float64).square().sum(dim=1).sqrt()).round().long().clamp(min=1)
    # The pixels removed by the first erosion separate all regions, so that the other erosions need not tell them apart:
    # a pixel is inside if the square around it contains none of them.
    off = _off(torch.where(shown, classes, -1).to(torch.int16)) | ~shown
    return (_sums(off, widths - 1) > 0) & shown


def _off(classes: Tensor) -> Tensor:
    """Mark the pixels (B, H, W) with another class, or the end of the image, among their 8 neighbours."""
    height, width = classes.shape[1:]
    padded = F.pad(classes, (1, 1, 1, 1), value=-1)
    off = torch.zeros_like(classes, dtype=torch.bool)
    for y in range(3):
        for x in range(3):
            off |= padded[:, y : y + height, x : x + width] != classes
    return off


def _sums(values: Tensor, reach: Tensor) -> Tensor:
    """Sums of values (B, H, W) over the square around each pixel that ``reach`` (B,) pixels go to, by running sums."""
    sums = values.to(torch.int32)
    for dim in (1, 2):
        length = sums.shape[dim]
        running = F.pad(sums.cumsum(dim, dtype=torch.int32), (0, 0, 1, 0) if dim == 1 else (1, 0))
        place = torch.arange(length, device=values.device)
        ends = (place - reach[:, None]).clamp(min=0), (place + reach[:, None] + 1).clamp(max=length)
        shape = [-1, length, 1] if dim == 1 else [-1, 1, length]
        first, last = (running.gather(dim, end.view(shape).expand_as(sums)) for end in ends)
        sums = last - first
    return sums


def class_iou(matrix: Any) -> Any:
    """Compute the IoU (K,) of each class from pixels (K, K) by label and prediction, NaN for a class without any."""
    correct = np.diag(matrix)
    return ratio(correct, matrix.sum(axis=0) + matrix.sum(axis=1) - correct)


def ratio(part: Any, whole: Any) -> Any:
    """Divide ``part`` by ``whole``; NaN where that is 0."""
    whole = np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
