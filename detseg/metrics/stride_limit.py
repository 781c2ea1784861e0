"""The IoU of labels with themselves at the stride of a segmenter, which is low for thin classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from detseg.constants import IGNORE_INDEX
from detseg.metrics.semantic import class_iou, pixel_matrix
from detseg.preprocessing import Preprocessing, ResizeConfig
from detseg.resizing import fit


class StrideLimit(NamedTuple):
    """The IoU (K,) of each class at a ``stride``, NaN for one without a pixel."""

    stride: int
    iou: NDArray[np.float64]


def stride_limit(
    maps: Iterable[NDArray[np.uint8]], classes: int, stride: int, preprocessing: Preprocessing
) -> StrideLimit:
    """Compare the labels (h, w) of images with those that a map of this stride can represent.

    ``preprocessing`` is that of the network, whose stride is in pixels of the resized image.
    """
    total = np.zeros((classes, classes), np.int64)
    for labels in maps:
        size = np.array(labels.shape)
        if isinstance(preprocessing, ResizeConfig):
            size = fit(size, preprocessing.min_size, preprocessing.max_size)
        total += matrix_at_stride(labels, classes, stride, size.tolist())
    return StrideLimit(stride, class_iou(total))


def matrix_at_stride(labels: NDArray[np.uint8], classes: int, stride: int, size: Sequence[int]) -> NDArray[np.int64]:
    """Count the pixels (K, K) of one image by label and by prediction of an ideal network of this ``stride``.

    That network knows the share of each class in every cell of its map, and upsamples these shares bilinearly. A class
    thinner than half a cell wins hardly any pixel (compare Long et al. 2015, appendix A). ``labels`` (h, w) are those
    of the image, which enters the network with the height and width ``size``.
    """
    target = torch.from_numpy(labels.astype(np.int64))
    present = torch.unique(target[target != IGNORE_INDEX])
    if not len(present):
        return np.zeros((classes, classes), np.int64)
    shares = (target == present[:, None, None]).float()[None]
    cells = [max(1, round(length / stride)) for length in size]
    shares = F.interpolate(shares, cells, mode="area")
    upsampled: Tensor = F.interpolate(shares, labels.shape, mode="bilinear", align_corners=False)
    matrix: NDArray[np.int64] = pixel_matrix(present[upsampled.argmax(dim=1)[0]], target, classes).numpy()
    return matrix
