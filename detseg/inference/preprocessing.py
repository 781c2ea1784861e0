"""Images as a model's input: resized as for evaluation, and padded to one shape in a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from detseg.data.loading.collate import PadShapes, assign_bucket, collate
from detseg.data.transforms import ImageSample, resizing
from detseg.preprocessing import Preprocessing
from detseg.structures import STRIDE, Batch, Sample


def preprocess(image: NDArray[np.uint8], config: Preprocessing) -> NDArray[np.uint8]:
    """Resize an RGB image (h, w, 3) as for evaluation."""
    return resizing.preprocess(ImageSample(image), config).image


def padded_shape(image: NDArray[np.uint8], shapes: PadShapes) -> tuple[int, int]:
    """Choose the height and width that a preprocessed image is padded to."""
    size = np.array(image.shape[:2])
    position = int(assign_bucket(size[None], shapes)[0])
    height, width = shapes[position] if position >= 0 else (-(-size // STRIDE) * STRIDE).tolist()
    return height, width


def to_sample(image: NDArray[np.uint8], original_size: tuple[int, int]) -> Sample:
    """Make a sample without objects of a preprocessed image (h, w, 3)."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    return Sample(pixels, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 0, original_size)


def to_batch(samples: Sequence[Sample], shapes: PadShapes, device: torch.device) -> Batch:
    """Pad samples to one shape, on a device. There are no targets to speak of."""
    batch = collate(samples, shapes)
    proposals = batch.proposals
    if proposals is not None:
        proposals = proposals._replace(boxes=proposals.boxes.to(device), valid=proposals.valid.to(device))
    return batch._replace(
        images=batch.images.to(device),
        image_sizes=batch.image_sizes.to(device),
        original_sizes=batch.original_sizes.to(device),
        proposals=proposals,
    )
