"""Images as a model's input: resized as for evaluation, and padded to one shape in a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detseg.data.loading.collate import PadShapes, assign_bucket, collate
from detseg.data.loading.dataset import to_sample
from detseg.data.transforms import ImageSample, transform
from detseg.preprocessing import Preprocessing
from detseg.structures import STRIDE, Batch, Sample, to_device


def preprocess(image: NDArray[np.uint8], config: Preprocessing, proposals: NDArray[np.float32] | None = None) -> Sample:
    """Resize an RGB image (h, w, 3) as for evaluation, with ``proposals`` (m, 4) in its pixels, without objects."""
    return to_sample(transform.preprocess(ImageSample(image, proposals=proposals), config), 0, image.shape[:2])


def padded_shape(image: Tensor, shapes: PadShapes) -> tuple[int, int]:
    """Choose the height and width that a preprocessed image (3, h, w) is padded to."""
    size = np.array(image.shape[1:])
    position = int(assign_bucket(size[None], shapes)[0])
    height, width = shapes[position] if position >= 0 else (-(-size // STRIDE) * STRIDE).tolist()
    return height, width


def to_batch(samples: Sequence[Sample], shapes: PadShapes, device: torch.device) -> Batch:
    """Pad samples to one shape, on a device."""
    return to_device(collate(samples, shapes), device)
