"""The base class of transforms, their application to a sample, and those that resize, crop and flip."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from detseg.configurable import Configurable
from detseg.data.transforms.geometry import ImageSample, clip_proposals, crop, hflip, scale
from detseg.errors import ConfigError
from detseg.preprocessing import CenterCropConfig, Preprocessing, ResizeConfig
from detseg.resizing import center_window, fit, to_square

ASPECT = 4 / 3  # of a random crop for classification, at most, either way (GoogLeNet, section 6)
SampleOther = Callable[[np.random.Generator], ImageSample]  # draws another image of the data set


class Transform(Configurable):
    """A change of training images: derive a class from it, and name the class in ``transforms``.

    Every random number must come from the generator, so that an image and a seed always give the same sample.

    Evaluation and prediction resize images as ``preprocessing`` of the last transform that has one, and apply no
    transform: of a list without any, images keep their size.
    """

    preprocessing: Preprocessing = None
    crop_size: int | None = None  # edge of a square that holds every image after the transform

    def __call__(self, sample: ImageSample, generator: np.random.Generator) -> ImageSample:
        """Return a changed copy of a sample. Its arrays may be shared and must not be written to."""
        raise NotImplementedError


class MixTransform(Transform):
    """A transform that mixes an image, with probability ``p``, with ``num_others`` other images of the data set.

    The others pass through the transforms before this one in the list.
    """

    num_others = 1
    needs_masks = False

    def __init__(self, p: float = 0.5) -> None:
        self.p = check_probability(self, p)

    def __call__(self, sample: ImageSample, generator: np.random.Generator) -> ImageSample:
        raise ConfigError(f"transforms: {type(self).__name__} mixes objects of detection data sets")

    def mix(self, sample: ImageSample, others: Sequence[ImageSample], generator: np.random.Generator) -> ImageSample:
        """Return a sample that is made of several."""
        raise NotImplementedError


def apply_transforms(
    transforms: Sequence[Transform], sample: ImageSample, seed: int, sample_other: SampleOther | None = None
) -> ImageSample:
    """Apply training transforms in order, with the random numbers of ``seed``; proposals are clipped at the end.

    ``sample_other`` draws images to mix. Raises ConfigError for a MixTransform without it.
    """
    return clip_proposals(_apply(transforms, sample, np.random.default_rng(seed), sample_other))


def _apply(
    transforms: Sequence[Transform],
    sample: ImageSample,
    generator: np.random.Generator,
    sample_other: SampleOther | None,
) -> ImageSample:
    for position, transform in enumerate(transforms):
        if not isinstance(transform, MixTransform) or sample_other is None:
            sample = transform(sample, generator)
        elif generator.random() < transform.p:
            others = [
                _apply(transforms[:position], sample_other(generator), generator, sample_other)
                for _ in range(transform.num_others)
            ]
            sample = transform.mix(sample, others, generator)
    return sample


def preprocessing_of(transforms: Sequence[Transform]) -> Preprocessing:
    """Return how evaluation and prediction resize images: as the last transform that has ``preprocessing``."""
    return next((transform.preprocessing for transform in reversed(transforms) if transform.preprocessing), None)


def crop_size_of(transforms: Sequence[Transform]) -> int | None:
    """Return the edge of the square that holds every training image, None if the last resizing has no such limit."""
    for transform in reversed(transforms):
        if transform.crop_size or transform.preprocessing:
            return transform.crop_size
    return None


def check_probability(transform: Transform, value: float, name: str = "p") -> float:
    """Return a probability. Raises ConfigError if it is none."""
    if not 0 <= value <= 1:
        raise ConfigError(f"transforms: {type(transform).__name__}: {name} {value} must be between 0 and 1")
    return value


class Resize(Transform):
    """Resize the short edge to ``size``, or less to keep the long edge to ``max_size`` (Fast R-CNN, section 5.2).

    Of a list of sizes, training draws one and evaluation takes the largest. With probability ``crop``, training resizes
    a random part of the image that holds all its boxes.

    Raises ConfigError for invalid values.
    """

    def __init__(self, size: int | list[int] = 800, max_size: int = 1333, crop: float = 0.0) -> None:
        self.sizes = [size] if isinstance(size, int) else list(size)
        if not self.sizes or min(self.sizes) < 1 or max_size < max(self.sizes):
            raise ConfigError(f"transforms: Resize: size {size} must be positive and not above max_size {max_size}")
        self.max_size, self.crop = max_size, check_probability(self, crop, "crop")
        self.preprocessing = ResizeConfig(max(self.sizes), max_size)

    def __call__(self, sample: ImageSample, generator: np.random.Generator) -> ImageSample:
        size = int(generator.choice(self.sizes))
        if generator.random() < self.crop:
            sample = _crop_around_boxes(sample, generator)
        return _resize_short_edge(sample, size, self.max_size)


class RandomHorizontalFlip(Transform):
    """Flip an image horizontally with probability ``p``."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = check_probability(self, p)

    def __call__(self, sample: ImageSample, generator: np.random.Generator) -> ImageSample:
        return hflip(sample) if generator.random() < self.p else sample


class RandomScaleCrop(Transform):
    """Scale an image by a random factor within ``scale``, and crop a random square of ``size`` pixels (None: no crop).

    An image that is smaller than the square after scaling keeps its size.

    Raises ConfigError for invalid values.
    """

    def __init__(self, scale: tuple[float, float] = (0.5, 2.0), size: int | None = 480) -> None:
        if not 0 < scale[0] <= scale[1] < math.inf:
            raise ConfigError(
                f"transforms: RandomScaleCrop: scale {list(scale)} must be two factors above 0, the smaller one first"
            )
        if size is not None and size < 1:
            raise ConfigError(f"transforms: RandomScaleCrop: size {size} must be at least 1")
        self.scale, self.crop_size = scale, size

    def __call__(self, sample: ImageSample, generator: np.random.Generator) -> ImageSample:
        """Crop first and scale only the crop, which is faster."""
        factor, lengths = generator.uniform(*self.scale), sample.image.shape[:2]
        limit = max(lengths) * factor + 1 if self.crop_size is None else self.crop_size
        part = [min(length, math.ceil(limit / factor)) for length in lengths]
        height, width = (max(1, min(round(length * factor), math.floor(limit))) for length in part)
        top, left = generator.integers(0, np.subtract(lengths, part), endpoint=True).tolist()
        return scale(crop(sample, left, top, left + part[1], top + part[0]), height, width)


class Tiles(Transform):
    """Crop a random square of ``size`` pixels around a random object, which stays whole if it fits.

    For detectors that predict on tiles (`--tile`); put it before ``Resize``. Other objects are cut at the edges of the
    tile, and dropped if less than ``min_visible`` of their box is left. A tile of an image without objects may lie
    anywhere; a smaller image keeps its size.

    Raises ConfigError for invalid values.
    """

    def __init__(self, size: int = 640, min_visible: float = 0.25) -> None:
        if size < 1:
            raise ConfigError(f"transforms: Tiles: size {size} must be at least 1")
        self.size, self.min_visible = size, check_probability(self, min_visible, "min_visible")

    def __call__(self, sample: ImageSample, generator: np.random.Generator) -> ImageSample:
        last = np.maximum(np.array(sample.image.shape[1::-1]) - self.size, 0)  # left and top at most
        low, high = np.zeros(2, dtype=np.int64), last
        if len(sample.boxes):
            start, end = generator.choice(sample.boxes).reshape(2, 2)
            edges = np.sort([np.ceil(end) - self.size, np.floor(start)], axis=0)  # holds the object, or is held by it
            low, high = edges.astype(np.int64).clip(0, last)
        left, top = generator.integers(low, high, endpoint=True).tolist()
        tile = (left, top, left + self.size, top + self.size)
        shown = (sample.boxes[:, 2:].clip(tile[:2], tile[2:]) - sample.boxes[:, :2].clip(tile[:2], tile[2:])).prod(
            axis=1
        )
        kept = shown >= self.min_visible * (sample.boxes[:, 2:] - sample.boxes[:, :2]).prod(axis=1)
        masks = None if sample.masks is None else sample.masks[kept]
        return crop(sample._replace(boxes=sample.boxes[kept], labels=sample.labels[kept], masks=masks), *tile)


class RandomResizedCrop(Transform):
    """Crop a random part and resize it to ``size`` x ``size`` pixels, as for classifiers (GoogLeNet, section 6).

    The part has a share of the area within ``scale`` and an aspect ratio between 3/4 and 4/3; where ten draws do not
    fit, it is the largest square. Evaluation resizes the center crop, 7/8 of the short edge.

    Raises ConfigError for invalid values.
    """

    crop_size: int

    def __init__(self, size: int = 224, scale: tuple[float, float] = (0.08, 1.0)) -> None:
        if size < 1:
            raise ConfigError(f"transforms: RandomResizedCrop: size {size} must be at least 1")
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ConfigError(
                f"transforms: RandomResizedCrop: scale {list(scale)} must be above 0 and rise to at most 1"
            )
        self.crop_size, self.scale = size, scale
        self.preprocessing = CenterCropConfig(size)

    def __call__(self, sample: ImageSample, generator: np.random.Generator) -> ImageSample:
        height, width = sample.image.shape[:2]
        for _ in range(10):
            pixels = height * width * generator.uniform(*self.scale)
            ratio = np.exp(generator.uniform(-np.log(ASPECT), np.log(ASPECT)))
            h, w = (max(round(float(edge)), 1) for edge in (np.sqrt(pixels / ratio), np.sqrt(pixels * ratio)))
            if h <= height and w <= width:
                break
        else:
            h = w = min(height, width)
        top, left = generator.integers(0, (height - h, width - w), endpoint=True).tolist()
        return _scale_to_square(crop(sample, left, top, left + w, top + h), self.crop_size)


def preprocess(sample: ImageSample, config: Preprocessing) -> ImageSample:
    """Resize a sample for evaluation; its proposals are clipped."""
    if isinstance(config, ResizeConfig):
        sample = _resize_short_edge(sample, config.min_size, config.max_size)
    elif isinstance(config, CenterCropConfig):
        left, top, side = center_window(*sample.image.shape[:2])
        sample = _scale_to_square(crop(sample, left, top, left + side, top + side), config.size)
    return clip_proposals(sample)


def _resize_short_edge(sample: ImageSample, size: int, max_size: int) -> ImageSample:
    height, width = fit(np.array(sample.image.shape[:2]), size, max_size).tolist()
    return scale(sample, height, width)


def _crop_around_boxes(sample: ImageSample, generator: np.random.Generator) -> ImageSample:
    """Crop a random part that holds all the boxes, or the middle of an image without any."""
    boxes, (height, width) = sample.boxes, sample.image.shape[:2]
    inner = boxes if len(boxes) else np.array([[width / 4, height / 4, width * 3 / 4, height * 3 / 4]])
    left, top = generator.integers(0, np.floor(inner[:, :2].min(axis=0)), endpoint=True).tolist()
    right, bottom = generator.integers(np.ceil(inner[:, 2:].max(axis=0)), (width, height), endpoint=True).tolist()
    return crop(sample, left, top, right, bottom)


def _scale_to_square(sample: ImageSample, size: int) -> ImageSample:
    return scale(sample, size, size, to_square(sample.image.shape, size))
