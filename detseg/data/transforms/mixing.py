"""Images made of several: large-scale jitter and copy-paste (Ghiasi et al. 2021), mosaic (YOLOv4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detseg.data.transforms.geometry import (
    ImageSample,
    concat,
    crop,
    full_mask,
    mask_bounds,
    pad_to,
    recompute_boxes,
    scale,
)
from detseg.data.transforms.transform import MixTransform, Resize
from detseg.errors import ConfigError
from detseg.resizing import fit

GREY = 114  # of a mosaic outside its images, as in YOLO
PASTED = 0.5  # probability of each object to be pasted (Ghiasi et al., section 3: a random subset)


class LargeScaleJitter(Resize):
    """Resize as ``Resize`` and by a factor within ``scale``, and crop a random part of the size without the factor.

    Objects are cut at the edges of the crop, as far as their masks tell. A smaller image keeps its size.

    Raises ConfigError for invalid values.
    """

    def __init__(
        self, size: int | list[int] = 1024, max_size: int = 1024, scale: tuple[float, float] = (0.1, 2.0)
    ) -> None:
        super().__init__(size, max_size)
        if not 0 < scale[0] <= scale[1]:
            raise ConfigError(
                f"transforms: LargeScaleJitter: scale {list(scale)} must be two factors above 0, the smaller one first"
            )
        self.scale = scale

    def __call__(self, sample: ImageSample, generator: np.random.Generator) -> ImageSample:
        size = int(generator.choice(self.sizes))
        height, width = fit(np.array(sample.image.shape[:2]), size, self.max_size).tolist()
        factor = generator.uniform(*self.scale)
        larger = scale(sample, max(1, round(factor * height)), max(1, round(factor * width)))
        top, left = (
            int(generator.integers(max(length - limit, 0), endpoint=True))
            for length, limit in zip(larger.image.shape, (height, width), strict=False)
        )
        return crop(larger, left, top, left + width, top + height)._replace(frame=(height, width))


class Mosaic(MixTransform):
    """Combine four images around a random point in the middle half of the frame of the first (YOLOv4).

    The frame is the size of the first image, without the factor of a large-scale jitter. Each image shows the corner
    that is next to the point, cut at the edges of the frame.
    """

    num_others = 3

    def mix(self, sample: ImageSample, others: Sequence[ImageSample], generator: np.random.Generator) -> ImageSample:
        height, width = _frame(sample)
        y, x = (int(generator.integers(length // 4, 3 * length // 4, endpoint=True)) for length in (height, width))
        image = np.full((height, width, 3), GREY, dtype=np.uint8)
        parts = []
        for number, one in enumerate([sample, *others]):
            below, right = divmod(number, 2)
            h, w = one.image.shape[:2]
            left, top = 0 if right else max(w - x, 0), 0 if below else max(h - y, 0)
            room = height - y if below else y, width - x if right else x
            part = crop(one, left, top, left + room[1], top + room[0])
            h, w = part.image.shape[:2]
            left, top = x if right else x - w, y if below else y - h
            image[top : top + h, left : left + w] = part.image
            parts.append(part._replace(boxes=part.boxes + np.array([left, top] * 2, dtype=np.float32)))
        return concat(parts)._replace(image=image)


class CopyPaste(MixTransform):
    """Paste random objects of another image by their masks, each with probability 1/2 (Ghiasi et al. 2021).

    Objects below are cut by those pasted over them, or dropped. A smaller image grows, black, within its frame.
    """

    needs_masks = True

    def mix(self, sample: ImageSample, others: Sequence[ImageSample], generator: np.random.Generator) -> ImageSample:
        height, width = _frame(sample)
        source = crop(others[0], 0, 0, width, height)
        assert source.masks is not None
        rows = np.flatnonzero(generator.random(len(source.boxes)) < PASTED)
        if not len(rows):
            return sample
        height, width = np.maximum(sample.image.shape, source.image.shape)[:2].tolist()
        covered = np.zeros((height, width), dtype=bool)
        for row in rows.tolist():
            covered |= full_mask(source, row, height, width)
        image = pad_to(sample.image, height, width)
        image[covered] = pad_to(source.image, height, width)[covered]
        sample = sample._replace(image=image)
        left, top, right, bottom = mask_bounds(covered)
        x1, y1, x2, y2 = sample.boxes.T
        near = np.flatnonzero((x1 < right) & (x2 > left) & (y1 < bottom) & (y2 > top))
        masks = {row: full_mask(sample, row, height, width) for row in near.tolist()}
        visible = {row: mask & ~covered for row, mask in masks.items() if (mask & covered).any()}
        pasted = source._replace(boxes=source.boxes[rows], labels=source.labels[rows], masks=source.masks[rows])
        return concat([recompute_boxes(sample, visible), pasted])


def _frame(sample: ImageSample) -> tuple[int, int]:
    height, width = sample.frame or sample.image.shape[:2]
    return height, width
