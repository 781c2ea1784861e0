"""Pictures made of parts of others: large-scale jitter and copy-paste (Ghiasi et al. 2021), mosaic (YOLOv4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from detseg.data.transforms.detection import Another, ImageSample, Transforms, bounds, fit, mirror, scale
from detseg.errors import ConfigError
from detseg.ops.masks import box_masks
from detseg.ops.rle import paste_mask

GREY = 114  # of a mosaic where no picture is, as in YOLO's
PASTED = 0.5  # probability of an object to be pasted, given that some are


class MixingTransforms(Transforms):
    """Transforms that also mix pictures in training; evaluation is that of ``Transforms``.

    ``jitter``, such as [0.1, 2.0], resizes each picture by a factor more, drawn between these, and cuts out a random
    part where it is then larger than it would have been. ``mosaic`` is the probability of four pictures around a point
    in the middle half of the frame that the first would have had, ``copy_paste`` that of pasting objects of another
    picture, each with one half, by their masks. What is cut or hidden has the box of what is left, as far as masks
    tell; an object of which nothing is left goes.

    Raises ConfigError for values that make no sense.
    """

    def __init__(
        self,
        size: int | list[int] = 800,
        max_size: int = 1333,
        flip: float = 0.5,
        augment: dict[str, dict[str, Any]] | None = None,
        jitter: tuple[float, float] | None = None,
        mosaic: float = 0.0,
        copy_paste: float = 0.0,
    ) -> None:
        super().__init__(size, max_size, flip, augment=augment)
        self.jitter, self.mosaic, self.copy_paste = jitter, mosaic, copy_paste
        if jitter is not None and not 0 < jitter[0] <= jitter[1]:
            raise ConfigError(f"transforms: jitter {list(jitter)} must be two factors above 0, the smaller one first")
        for name, value in (("mosaic", mosaic), ("copy_paste", copy_paste)):
            if not 0 <= value <= 1:
                raise ConfigError(f"transforms: {name} {value} must be between 0 and 1")

    def check(self, masks: bool, proposals: bool) -> None:
        """Raise ConfigError if data with or without masks and proposals cannot be mixed like this."""
        if self.copy_paste and not masks:
            raise ConfigError("transforms: copy_paste pastes objects by their masks; add `--data.masks all`")
        if proposals and (self.copy_paste or self.mosaic):
            raise ConfigError("transforms: proposals do not know of the objects that mosaic and copy_paste bring in")

    def train(self, picture: ImageSample, seed: int, another: Another | None = None) -> ImageSample:
        """Change a picture as ``seed`` draws it; ``another`` gives those that it is mixed with."""
        generator = np.random.default_rng(seed)
        size = int(generator.choice(self.sizes))
        height, width = fit(np.array(picture.image.shape[:2]), size, self.max_size).tolist()
        if another is not None and generator.random() < self.mosaic:
            pictures = [picture, *(another(generator) for _ in range(3))]
            picture = mosaic([self._resized(one, size, generator) for one in pictures], height, width, generator)
        else:
            picture = self._resized(picture, size, generator)
        if another is not None and generator.random() < self.copy_paste:
            other = self._resized(another(generator), size, generator)
            other = mirror(other) if generator.random() < self.flip else other
            picture = copy_paste(picture, cut(other, 0, 0, width, height), generator)
        return self.finish(picture, generator)

    def _resized(self, picture: ImageSample, size: int, generator: np.random.Generator) -> ImageSample:
        """A picture of its usual size, or jittered and within that size."""
        height, width = fit(np.array(picture.image.shape[:2]), size, self.max_size).tolist()
        if self.jitter is None:
            return scale(picture, height, width)
        factor = generator.uniform(*self.jitter)
        larger = scale(picture, max(1, round(factor * height)), max(1, round(factor * width)))
        top, left = (
            int(generator.integers(max(now - limit, 0), endpoint=True))
            for now, limit in zip(larger.image.shape, (height, width), strict=False)
        )
        return cut(larger, left, top, left + width, top + height)


def mosaic(pictures: Sequence[ImageSample], height: int, width: int, generator: np.random.Generator) -> ImageSample:
    """Four pictures around a point, each with the corner that is next to it there, cut at the edges of the frame."""
    y, x = (int(generator.integers(length // 4, 3 * length // 4, endpoint=True)) for length in (height, width))
    image = np.full((height, width, 3), GREY, dtype=np.uint8)
    parts = []
    for number, picture in enumerate(pictures):
        below, right = divmod(number, 2)
        h, w = picture.image.shape[:2]
        left, top = 0 if right else max(w - x, 0), 0 if below else max(h - y, 0)
        room = height - y if below else y, width - x if right else x
        part = cut(picture, left, top, left + room[1], top + room[0])
        h, w = part.image.shape[:2]
        left, top = x if right else x - w, y if below else y - h
        image[top : top + h, left : left + w] = part.image
        parts.append(part._replace(boxes=part.boxes + np.array([left, top] * 2, dtype=np.float32)))
    return concat_contours(parts)._replace(image=image)


def copy_paste(picture: ImageSample, source: ImageSample, generator: np.random.Generator) -> ImageSample:
    """Paste some objects of ``source`` on a picture, which grows (black) where it is smaller; both have masks."""
    assert source.masks is not None
    rows = np.flatnonzero(generator.random(len(source.boxes)) < PASTED)
    if not len(rows):
        return picture
    height, width = np.maximum(picture.image.shape, source.image.shape)[:2].tolist()
    covered = np.zeros((height, width), dtype=bool)
    for row in rows.tolist():
        covered |= whole(source, row, height, width)
    image = grown(picture.image, height, width)
    image[covered] = grown(source.image, height, width)[covered]
    picture = picture._replace(image=image)
    left, top, right, bottom = bounds(covered)
    x1, y1, x2, y2 = picture.boxes.T
    near = np.flatnonzero((x1 < right) & (x2 > left) & (y1 < bottom) & (y2 > top))
    maps = {row: whole(picture, row, height, width) for row in near.tolist()}
    hidden = {row: map & ~covered for row, map in maps.items() if (map & covered).any()}
    pasted = source._replace(boxes=source.boxes[rows], labels=source.labels[rows], masks=source.masks[rows])
    return concat_contours([redrawn(picture, hidden), pasted])


def cut(picture: ImageSample, left: int, top: int, right: int, bottom: int) -> ImageSample:
    """The part of a picture in a window, as far as it reaches, and the parts of its objects that are in it."""
    height, width = picture.image.shape[:2]
    right, bottom = min(right, width), min(bottom, height)
    if (left, top, right, bottom) == (0, 0, width, height):
        return picture
    corner = np.array([left, top] * 2, dtype=np.float32)
    boxes = (picture.boxes.clip(corner, np.array([right, bottom] * 2, dtype=np.float32)) - corner).astype(np.float32)
    there = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    maps = {}
    if picture.masks is not None:
        partly = there & np.any(boxes != picture.boxes - corner, axis=1)
        maps = {
            row: whole(picture, row, height, width)[top:bottom, left:right] for row in np.flatnonzero(partly).tolist()
        }
    proposals = None if picture.proposals is None else picture.proposals - corner
    moved = picture._replace(image=picture.image[top:bottom, left:right], boxes=boxes, proposals=proposals)
    return redrawn(moved, maps)


def redrawn(picture: ImageSample, maps: Mapping[int, NDArray[np.bool_]]) -> ImageSample:
    """A picture with other masks (h, w) of some of its objects, and the boxes around these; what has no area goes."""
    boxes, masks = picture.boxes.copy(), picture.masks
    for row, map in maps.items():
        boxes[row] = bounds(map)
    there: NDArray[np.bool_] = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
    if masks is not None:
        masks = masks.copy()
        rows = [row for row in maps if there[row]]
        masks[rows] = box_masks((maps[row] for row in rows), torch.from_numpy(boxes[rows]), masks.shape[1]).numpy()
        masks = masks[there]
    return picture._replace(boxes=boxes[there], labels=picture.labels[there], masks=masks)


def concat_contours(pictures: Sequence[ImageSample]) -> ImageSample:
    """The first picture with the objects of all."""
    masks = [picture.masks for picture in pictures if picture.masks is not None]
    return pictures[0]._replace(
        boxes=np.concatenate([picture.boxes for picture in pictures]),
        labels=np.concatenate([picture.labels for picture in pictures]),
        masks=np.concatenate(masks) if masks else None,
    )


def whole(picture: ImageSample, row: int, height: int, width: int) -> NDArray[np.bool_]:
    """The mask of an object as a map (height, width)."""
    assert picture.masks is not None
    return paste_mask(picture.masks[row].astype(np.float32) / 255, picture.boxes[row], height, width).full_mask(
        height, width
    )


def grown(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """An image with black below and at its right."""
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    canvas[: image.shape[0], : image.shape[1]] = image
    return canvas
