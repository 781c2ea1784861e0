"""Test-time augmentation of segmenters: crops, scales and mirror images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from detseg.errors import ConfigError
from detseg.models.segmenter import Segmenter

MAX_SCALE = 16
STEP = 2 / 3  # of a crop's side, from one crop to the next


@dataclass(frozen=True)
class TTAConfig:
    """Test-time augmentation. The default is one pass over the image at its usual size.

    ``scales`` are factors of that size; ``flip`` adds the mirror image. A segmenter cuts an image larger than
    ``crop_size`` pixels into squares of that side, which overlap by a third, and averages all probabilities.

    Raises ConfigError, naming it, for a value that makes no sense.
    """

    crop_size: int | None = None
    scales: Sequence[float] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        if self.crop_size is not None and (type(self.crop_size) is not int or self.crop_size < 1):
            raise ConfigError(f"crop_size {self.crop_size}: must be a whole number of pixels, at least 1")
        object.__setattr__(self, "scales", tuple(self.scales))  # a list would equal no default
        if not self.scales or not all(0 < scale <= MAX_SCALE for scale in self.scales):
            raise ConfigError(f"scales {list(self.scales)}: must be one factor or several, above 0, up to {MAX_SCALE}")
        if not isinstance(self.flip, bool):
            raise ConfigError(f"flip {self.flip}: must be true or false")


def predict_semantic(model: Segmenter, images: Tensor, sizes: Tensor, tta: TTAConfig) -> Tensor:
    """Labels (B, H, W) of images (B, 3, H, W), uint8, of ``sizes`` (B, 2) inside their padding."""
    if tta == TTAConfig():
        return model(images, sizes).argmax(dim=1)  # type: ignore[no-any-return]
    labels = torch.zeros(len(images), *images.shape[2:], dtype=torch.int64, device=images.device)
    for index, (height, width) in enumerate(sizes.tolist()):
        # One by one: a mirror image would have its padding at the other side.
        image = images[index, None, :, :height, :width]
        labels[index, :height, :width] = semantic_probabilities(model, image, tta)[0].argmax(dim=0)
    return labels


def semantic_probabilities(model: Segmenter, image: Tensor, tta: TTAConfig) -> Tensor:
    """Sum the probabilities (1, K, h, w) of all scales and mirror images of an image (1, 3, h, w)."""
    height, width = image.shape[2:]
    total = torch.zeros(1, model.num_classes, height, width, device=image.device)
    for scale in tta.scales:
        size = [max(1, round(length * scale)) for length in (height, width)]
        scaled = image
        if scale != 1:
            scaled = F.interpolate(image.float(), size=size, mode="bilinear", align_corners=False, antialias=True)
            scaled = scaled.round().clamp(0, 255).byte()
        for flip in (False, True)[: 1 + tta.flip]:
            probabilities = _average_crops(model, scaled.flip(3) if flip else scaled, tta.crop_size)
            probabilities = probabilities.flip(3) if flip else probabilities
            if scale != 1:
                probabilities = F.interpolate(probabilities, size=(height, width), mode="bilinear", align_corners=False)
            total += probabilities
    return total


def _average_crops(model: Segmenter, image: Tensor, crop_size: int | None) -> Tensor:
    """Probabilities (1, K, h, w) of an image, at each pixel the mean of the crops that contain it."""
    height, width = image.shape[2:]
    if crop_size is None or crop_size >= max(height, width):
        return model(image).float().softmax(dim=1)  # type: ignore[no-any-return]
    total = torch.zeros(1, model.num_classes, height, width, device=image.device)
    count = torch.zeros(height, width, device=image.device)
    for top in _crop_starts(height, crop_size):
        for left in _crop_starts(width, crop_size):
            crop = (..., slice(top, top + crop_size), slice(left, left + crop_size))
            total[crop] += model(image[crop]).float().softmax(dim=1)
            count[crop] += 1
    return total / count


def _crop_starts(length: int, crop_size: int) -> Iterator[int]:
    """Starts of the crops that cover a length: a step apart, the last crop at the end."""
    last = max(0, length - crop_size)
    yield from range(0, last, max(1, round(STEP * crop_size)))
    yield last
