"""What happens to an image and its map of labels between the files and the batch."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.configurable import Configurable
from detseg.data.transforms.detection import apply, compose
from detseg.errors import ConfigError

Image = NDArray[np.uint8]  # (h, w, 3) RGB
LabelMap = NDArray[np.uint8]  # (h, w), 0..K-1 or VOID

NO_BOXES = np.zeros((0, 4), dtype=np.float32)


class SegmentationTransforms(Configurable):
    """In training scale, crop and mirror at random, and apply whatever ``augment`` adds; evaluation changes nothing.

    A factor within ``scale`` (smallest and largest) is drawn, then a part of ``crop`` x ``crop`` pixels at a random
    place; what is smaller is padded in the batch, with void labels. ``crop`` null keeps whole images. ``flip`` is the
    probability of a mirror image. ``augment`` names transforms of albumentations as in ``Transforms``; what they leave
    empty is void. Labels are never mixed: a pixel has the label of the nearest one.

    Raises ConfigError for values that make no sense, and as ``Transforms`` for what albumentations refuses.
    """

    def __init__(
        self,
        scale: tuple[float, float] = (0.5, 2.0),
        crop: int | None = 480,
        flip: float = 0.5,
        augment: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        if not 0 < scale[0] <= scale[1] < math.inf:
            raise ConfigError(f"transforms: scale {list(scale)} must be two factors above 0, the smaller one first")
        if crop is not None and crop < 1:
            raise ConfigError(f"transforms: crop {crop} must be at least 1")
        if not 0 <= flip <= 1:
            raise ConfigError(f"transforms: flip {flip} must be between 0 and 1")
        self.scale, self.crop, self.flip = scale, crop, flip
        self.augment = compose(augment) if augment else None

    def train(self, image: Image, labels: LabelMap, seed: int) -> tuple[Image, LabelMap]:
        """Change an image and its labels as ``seed`` draws it."""
        generator = np.random.default_rng(seed)
        image, labels = _scaled_part(image, labels, generator.uniform(*self.scale), self.crop, generator)
        if generator.random() < self.flip:
            image, labels = cv2.flip(image, 1).astype(np.uint8, copy=False), labels[:, ::-1]
        if self.augment is not None:
            # albumentations fills what it leaves empty with 0, which is a class: in the complement, 0 is void.
            complement = np.ascontiguousarray(~labels)
            result = apply(
                self.augment, int(generator.integers(2**32)), image, mask=complement, bboxes=NO_BOXES, rows=[]
            )
            image, labels = result["image"], ~result["mask"]
        return image, labels


def _scaled_part(
    image: Image, labels: LabelMap, scale: float, crop: int | None, generator: np.random.Generator
) -> tuple[Image, LabelMap]:
    """A random part of the image after scaling; only the part is scaled, and no more pixels than it has are touched."""
    lengths = image.shape[:2]
    limit = max(lengths) * scale + 1 if crop is None else crop
    part = [min(length, math.ceil(limit / scale)) for length in lengths]
    height, width = (max(1, min(round(length * scale), math.floor(limit))) for length in part)
    top, left = generator.integers(0, np.subtract(lengths, part), endpoint=True).tolist()
    place = (slice(top, top + part[0]), slice(left, left + part[1]))
    image, labels = image[place], labels[place]
    if [height, width] == part:
        return np.ascontiguousarray(image), labels
    return (
        cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False),
        # Not INTER_NEAREST, which takes corners of pixels for their centres and so is half a pixel off the image.
        cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT).astype(np.uint8, copy=False),
    )
