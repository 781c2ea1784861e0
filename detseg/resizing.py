"""Resize images as for evaluation: arrays of pixels alone, without torch."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.preprocessing import CenterCropConfig, Preprocessing, ResizeConfig

CENTRE = 0.875  # share of the short edge in a center crop: 224 of 256 pixels (AlexNet, section 4.1)


def fit(sizes: NDArray[Any], size: int, max_size: int) -> NDArray[np.int64]:
    """Return heights and widths (..., 2) with a short edge of ``size``, or less to keep the long edge to ``max_size``.

    The aspect ratio is kept, as by torchvision's and detectron2's detectors.
    """
    exact = sizes.astype(np.float64)
    scale = np.minimum(size / exact.min(axis=-1), max_size / exact.max(axis=-1))
    fitted: NDArray[np.int64] = np.floor(exact * scale[..., None] + 0.5).clip(1).astype(np.int64)
    return fitted


def resize(
    image: NDArray[np.uint8], height: int, width: int, interpolation: int = cv2.INTER_LINEAR
) -> NDArray[np.uint8]:
    """Resize an image (h, w, 3) or a map of labels (h, w)."""
    if (height, width) == image.shape[:2]:
        return image
    return cv2.resize(image, (width, height), interpolation=interpolation).astype(np.uint8, copy=False)


def to_square(image_shape: tuple[int, ...], size: int) -> int:
    """Choose the interpolation for resizing to a square: means of pixels, where it shrinks, leave no moire patterns."""
    return cv2.INTER_AREA if min(image_shape[:2]) > size else cv2.INTER_LINEAR


def center_window(height: int, width: int) -> tuple[int, int, int]:
    """Return the left and top edge and the side of the central square, 7/8 of the short edge."""
    side = max(round(CENTRE * min(height, width)), 1)
    return (width - side) // 2, (height - side) // 2, side


def preprocess(image: NDArray[np.uint8], config: Preprocessing) -> NDArray[np.uint8]:
    """Resize an RGB image (h, w, 3) as for evaluation."""
    if isinstance(config, ResizeConfig):
        height, width = fit(np.array(image.shape[:2]), config.min_size, config.max_size).tolist()
        return resize(image, height, width)
    if isinstance(config, CenterCropConfig):
        left, top, side = center_window(*image.shape[:2])
        square = image[top : top + side, left : left + side]
        return resize(square, config.size, config.size, to_square(square.shape, config.size))
    return image
