"""How well every pixel is labelled: counts over a whole data set, and the figures that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from detseg.structures import IGNORE_INDEX

BOUNDARY = 0.02  # width of the boundary, as a share of the diagonal of the image (Cheng et al. 2021, section 4.3)

Floats = NDArray[np.float64]


class Confusion:
    """Counts the pixels of each class that are taken for each class, and how far the boundaries agree.

    The counts are whole numbers: whatever the batches and the ranks, the sums and the figures are the same to the last
    bit. They stay on the device of what is added, and adding a batch never waits for it.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.reset()

    def reset(self) -> None:
        """Forget everything, before another pass."""
        self.matrix = torch.zeros(self.num_classes, self.num_classes, dtype=torch.int64)  # [label, prediction]
        # Pixels at the boundary of a class, of each class: in the labels, in the predictions, in both.
        self.boundaries = torch.zeros(3, self.num_classes, dtype=torch.int64)

    def add(self, predictions: Tensor, labels: Tensor, sizes: Tensor) -> None:
        """Add predicted classes and labels (B, H, W), IGNORE_INDEX not counted, with ``Batch.image_sizes``."""
        count, device = self.num_classes, labels.device
        self.matrix, self.boundaries = self.matrix.to(device), self.boundaries.to(device)
        predictions, valid = predictions.to(torch.int64), labels != IGNORE_INDEX
        self.matrix += _histogram(labels * count + predictions, valid, count * count).view(count, count)
        at_label, at_prediction = (_at_boundary(classes, sizes) & valid for classes in (labels, predictions))
        both = at_label & at_prediction & (labels == predictions)
        self.boundaries += torch.stack(
            [
                _histogram(labels, at_label, count),
                _histogram(predictions, at_prediction, count),
                _histogram(labels, both, count),
            ]
        )

    def gather(self) -> Confusion:
        """The sum over all ranks, the same on every rank. Every rank must call it, also one that has seen no image."""
        own = (self.matrix.cpu(), self.boundaries.cpu())
        shares = [own]
        if dist.is_available() and dist.is_initialized():
            shares = [own] * dist.get_world_size()
            dist.all_gather_object(shares, own)
        whole = Confusion(self.num_classes)
        for matrix, boundaries in shares:
            whole.matrix += matrix
            whole.boundaries += boundaries
        return whole

    def figures(self, classes: Sequence[str]) -> dict[str, float]:
        """The figures of FCN (Long et al. 2015, section 5) and the boundary IoU, between 0 and 1.

        ``pixel_accuracy``, ``mean_accuracy``, ``mean_IoU``, ``frequency_weighted_IoU``, ``mean_boundary_IoU``; then
        ``IoU/<class>``, ``accuracy/<class>`` and ``boundary_IoU/<class>``. A figure of a class that nothing defines is
        nan, and means leave it out: the IoU where neither labels nor predictions have it, the accuracy where the labels
        do not.

        The boundary IoU (Cheng et al. 2021) is the IoU of those pixels of a class that are within 2 % of the image's
        diagonal from its edge.
        """
        matrix = self.matrix.cpu().numpy()
        right, labelled, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
        at_label, at_prediction, both = self.boundaries.cpu().numpy()
        iou = _ratio(right, labelled + predicted - right)
        accuracy = _ratio(right, labelled)
        boundary = _ratio(both, at_label + at_prediction - both)
        result = {
            "pixel_accuracy": _ratio(right.sum(), labelled.sum()),
            "mean_accuracy": _mean(accuracy),
            "mean_IoU": _mean(iou),
            "frequency_weighted_IoU": _ratio((labelled * np.nan_to_num(iou)).sum(), labelled.sum()),
            "mean_boundary_IoU": _mean(boundary),
        }
        for figure, values in (("IoU", iou), ("accuracy", accuracy), ("boundary_IoU", boundary)):
            result |= {f"{figure}/{name}": value for name, value in zip(classes, values, strict=True)}
        return {name: float(value) for name, value in result.items()}


def _histogram(values: Tensor, counted: Tensor, bins: int) -> Tensor:
    """How often each of 0..bins-1 is among the ``counted`` values. torch.bincount would wait for the device."""
    index = torch.where(counted, values, bins).flatten()
    counts = torch.zeros(bins + 1, dtype=torch.int64, device=values.device)
    return counts.index_add_(0, index, counts.new_ones(()).expand(len(index)))[:bins]


def _at_boundary(classes: Tensor, sizes: Tensor) -> Tensor:
    """Which pixels (B, H, W) are near the edge of the region of their class, or of the image inside the padding.

    A region's inside is what is left when its outermost pixels are taken off (a 3 x 3 erosion) as many times as the
    boundary is wide; the rest is its boundary.
    """
    down, across = (torch.arange(length, device=classes.device) for length in classes.shape[1:])
    sizes = sizes.to(classes.device)
    shown = (down[:, None] < sizes[:, 0, None, None]) & (across < sizes[:, 1, None, None])
    widths = (BOUNDARY * sizes.to(torch.float64).square().sum(dim=1).sqrt()).round().long().clamp(min=1)
    # What the first time takes off lies between all regions, so that the other times need not tell them apart: the
    # square of pixels that they look at must hold none of it.
    off = _off(torch.where(shown, classes, -1).to(torch.int16)) | ~shown
    return (_sums(off, widths - 1) > 0) & shown


def _off(classes: Tensor) -> Tensor:
    """Which pixels (B, H, W) have another class, or the end of the image, among the 8 around them."""
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


def _ratio(part: Any, whole: Any) -> Any:
    """``part / whole``, nan where that is 0."""
    whole = np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def _mean(values: Floats) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
