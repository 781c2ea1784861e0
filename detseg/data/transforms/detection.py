"""What happens to a picture and its objects between the file and the batch; all there is of albumentations."""

from __future__ import annotations

import difflib
import itertools
import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from detseg.configurable import Configurable
from detseg.errors import ConfigError
from detseg.ops.masks import box_masks
from detseg.ops.rle import paste_mask


class ImageSample(NamedTuple):
    """An image with the objects to learn from."""

    image: NDArray[np.uint8]  # (h, w, 3) RGB
    boxes: NDArray[np.float32]  # (n, 4) xyxy, pixels of ``image``
    labels: NDArray[np.int64]  # (n,)
    masks: NDArray[np.uint8] | None = None  # (n, S, S) grids over the boxes, see ops.masks
    proposals: NDArray[np.float32] | None = None  # (m, 4) xyxy, moved as the boxes are


Another = Callable[[np.random.Generator], ImageSample]  # gives a picture at random


class Transforms(Configurable):
    """Resize by the short edge; in training also crop and mirror at random, and whatever ``augment`` adds.

    ``size`` is the short edge after resizing; of a list, training takes one at random and evaluation the largest. The
    long edge is kept to ``max_size``, at the same aspect ratio. ``crop`` is the probability of cutting out a part that
    holds all the boxes, ``flip`` that of a mirror image. ``augment`` names transforms of albumentations with their
    values, applied in this order after the resizing: ``{"ColorJitter": {"brightness": 0.2, "p": 0.5}}``.

    Raises ConfigError for values that make no sense, and for a transform or a value that albumentations does not have,
    or in training for one that fails on an image or does not leave it uint8 RGB.
    """

    def __init__(
        self,
        size: int | list[int] = 800,
        max_size: int = 1333,
        flip: float = 0.5,
        crop: float = 0.0,
        augment: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        self.sizes = [size] if isinstance(size, int) else list(size)
        self.max_size, self.flip, self.crop = max_size, flip, crop
        if not self.sizes or min(self.sizes) < 1 or max_size < max(self.sizes):
            raise ConfigError(f"transforms: size {size} must be positive and not above max_size {max_size}")
        for name, value in (("flip", flip), ("crop", crop)):
            if not 0 <= value <= 1:
                raise ConfigError(f"transforms: {name} {value} must be between 0 and 1")
        self.augment = compose(augment) if augment else None

    def train(self, picture: ImageSample, seed: int, another: Another | None = None) -> ImageSample:
        """Change a picture as ``seed`` draws it. Boxes left without area go, with their labels and masks.

        Proposals are cut off at the edges of the result; those left without area go. ``another`` is for transforms that
        mix pictures.
        """
        generator = np.random.default_rng(seed)
        size = int(generator.choice(self.sizes))
        if generator.random() < self.crop:
            picture = _crop(picture, generator)
        return self.finish(_resize(picture, size, self.max_size), generator)

    def finish(self, picture: ImageSample, generator: np.random.Generator) -> ImageSample:
        """What training does to a picture that has its size."""
        if generator.random() < self.flip:
            picture = mirror(picture)
        if self.augment is not None:
            picture = augment(picture, self.augment, int(generator.integers(2**32)))
        return _cut_off(picture)

    def evaluate(self, picture: ImageSample) -> ImageSample:
        """Resize a picture; its proposals are cut off at its edges."""
        return _cut_off(_resize(picture, max(self.sizes), self.max_size))


def fit(sizes: NDArray[Any], size: int, max_size: int) -> NDArray[np.int64]:
    """Heights and widths (..., 2) after resizing the short edge to ``size``, or less if the long one would exceed."""
    exact = sizes.astype(np.float64)
    scale = np.minimum(size / exact.min(axis=-1), max_size / exact.max(axis=-1))
    fitted: NDArray[np.int64] = np.floor(exact * scale[..., None] + 0.5).clip(1).astype(np.int64)
    return fitted


def _resize(picture: ImageSample, size: int, max_size: int) -> ImageSample:
    height, width = fit(np.array(picture.image.shape[:2]), size, max_size).tolist()
    return scale(picture, height, width)


def scale(picture: ImageSample, height: int, width: int) -> ImageSample:
    """A picture resized to this height and width."""
    old = picture.image.shape[:2]
    if (height, width) == old:
        return picture
    factors = np.array([width / old[1], height / old[0]] * 2, dtype=np.float32)
    return _move(picture, lambda boxes: boxes * factors)._replace(image=resize(picture.image, height, width))


def resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize an image (h, w, 3) bilinearly."""
    if (height, width) == image.shape[:2]:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)


def _crop(picture: ImageSample, generator: np.random.Generator) -> ImageSample:
    """Cut out a random part that holds all the boxes, or the middle of a picture without any."""
    image, boxes = picture.image, picture.boxes
    height, width = image.shape[:2]
    inner = boxes if len(boxes) else np.array([[width / 4, height / 4, width * 3 / 4, height * 3 / 4]])
    left, top = generator.integers(0, np.floor(inner[:, :2].min(axis=0)), endpoint=True).tolist()
    right, bottom = generator.integers(np.ceil(inner[:, 2:].max(axis=0)), (width, height), endpoint=True).tolist()
    corner = np.array([left, top, left, top], dtype=np.float32)
    return _move(picture, lambda boxes: boxes - corner)._replace(image=image[top:bottom, left:right])


def mirror(picture: ImageSample) -> ImageSample:
    """A picture with its left and right exchanged."""
    image, masks = picture.image, picture.masks
    width = np.float32(image.shape[1])

    def turn(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        x1, y1, x2, y2 = boxes.T
        return np.stack([width - x2, y1, width - x1, y2], axis=1)

    mirrored = cv2.flip(image, 1).astype(np.uint8, copy=False)
    return _move(picture, turn)._replace(image=mirrored, masks=masks if masks is None else masks[:, :, ::-1])


def _move(picture: ImageSample, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> ImageSample:
    """Change the boxes and the proposals in the same way; masks lie over their boxes, wherever these are."""
    proposals = None if picture.proposals is None else change(picture.proposals)
    return picture._replace(boxes=change(picture.boxes), proposals=proposals)


def _cut_off(picture: ImageSample) -> ImageSample:
    """Clip the proposals to the image, and drop those that lie outside."""
    if picture.proposals is None:
        return picture
    height, width = picture.image.shape[:2]
    clipped = picture.proposals.clip(0, np.array([width, height] * 2, dtype=np.float32))
    return picture._replace(proposals=clipped[(clipped[:, 2:] > clipped[:, :2]).all(axis=1)])


def augment(picture: ImageSample, steps: Any, seed: int) -> ImageSample:
    """Change a picture and its objects by the ``steps`` that ``compose`` made, as ``seed`` draws them."""
    masks = picture.masks
    more = {"masks": _whole(picture)} if masks is not None and len(masks) else {}
    boxes = np.column_stack([picture.boxes, np.arange(len(picture.boxes))])  # each with its row: some may go
    proposals = {} if picture.proposals is None else {"proposals": picture.proposals}
    result = apply(steps, seed, picture.image, bboxes=boxes, **proposals, **more)
    image = result["image"]
    boxes, rows = np.split(np.asarray(result["bboxes"], dtype=np.float32).reshape(-1, 5), [4], axis=1)
    rows = rows[:, 0].astype(np.int64)
    changed = [np.asarray(result["masks"][row], dtype=bool) for row in rows] if more else []
    if more:  # a turned box is larger than the turned object, and what hides a part of it leaves a smaller one
        boxes = np.array([bounds(mask) for mask in changed], dtype=np.float32).reshape(-1, 4)
    area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes, rows = boxes[area], rows[area]
    if masks is not None:
        masks = box_masks(itertools.compress(changed, area), torch.from_numpy(boxes)).numpy()
    moved = np.asarray(result["proposals"], dtype=np.float32).reshape(-1, 4) if proposals else None
    return ImageSample(image, boxes, picture.labels[rows], masks, moved)


def bounds(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The smallest box (xyxy) around the pixels of a mask (h, w), without area where it has none."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(rows) else (0, 0, 0, 0)


def _whole(picture: ImageSample) -> NDArray[np.uint8]:
    """The masks (n, h, w) of a picture as maps of all of it."""
    height, width = picture.image.shape[:2]
    assert picture.masks is not None
    shares = picture.masks.astype(np.float32) / 255
    pasted = [
        paste_mask(mask, box, height, width).full_mask(height, width)
        for mask, box in zip(shares, picture.boxes, strict=True)
    ]
    return np.stack(pasted).view(np.uint8)


def apply(steps: Any, seed: int, image: NDArray[np.uint8], **targets: Any) -> dict[str, Any]:
    """Change an image (h, w, 3), and what else albumentations is given, by the ``steps`` that ``compose`` made.

    Raises ConfigError if one fails, or does not leave the image uint8 RGB.
    """
    steps.set_random_seed(seed)
    names = ", ".join(type(step).__name__ for step in steps.transforms)
    try:
        result: dict[str, Any] = steps(image=image, **targets)
    except Exception as error:  # albumentations has no class that all its errors share
        height, width = image.shape[:2]
        raise ConfigError(
            f"transforms: augment ({names}) fails on an image resized to {height} x {width}: {error}; "
            "change its values or leave it out"
        ) from error
    image = result["image"]
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ConfigError(
            f"transforms: augment ({names}) must leave images uint8 and (h, w, 3), but gives {image.dtype} and "
            f"{tuple(image.shape)}; normalisation belongs to the backbone, which does it itself"
        )
    return result


def compose(augment: dict[str, dict[str, Any]]) -> Any:
    """The transforms of albumentations with these names and values. Raises ConfigError for what it does not have."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # importing it must not ask the network for news
    import albumentations

    steps = []
    for name, values in augment.items():
        kind = getattr(albumentations, name, None)
        if not (isinstance(kind, type) and issubclass(kind, albumentations.BasicTransform)):
            near = difflib.get_close_matches(name, dir(albumentations), n=3)
            raise ConfigError(f"transforms: albumentations has no transform {name}; near to it: {', '.join(near)}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # how it meets a value it does not know
                steps.append(kind(**values))
        except (TypeError, ValueError, UserWarning) as error:
            raise ConfigError(f"transforms: {name}: {error}") from None
    boxes = albumentations.BboxParams(format="pascal_voc", clip=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that colours alone change no boxes
        return albumentations.Compose(steps, bbox_params=boxes, additional_targets={"proposals": "bboxes"})
