"""Looking at an image more than once when it is segmented."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from detseg.errors import ConfigError
from detseg.models import Segmenter

STEP = 2 / 3  # of a window, from one to the next


@dataclass(frozen=True)
class TTAConfig:
    """How often and in which parts an image is looked at. By default once, as a whole and as it is.

    ``window`` pixels is the side of the parts of a larger image, which overlap by a third. ``scales`` are factors that
    the image is resized by; with ``flip`` its mirror image is looked at too. Probabilities are averaged.

    Raises ConfigError, naming it, for a value that makes no sense.
    """

    window: int | None = None
    scales: Sequence[float] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        if self.window is not None and (type(self.window) is not int or self.window < 1):
            raise ConfigError(f"window {self.window}: must be a whole number of pixels, at least 1")
        object.__setattr__(self, "scales", tuple(self.scales))  # a list would equal no default
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise ConfigError(f"scales {list(self.scales)}: must be one factor or several, each above 0 and finite")
        if not isinstance(self.flip, bool):
            raise ConfigError(f"flip {self.flip}: must be true or false")


def segment(model: Segmenter, images: Tensor, sizes: Tensor, views: TTAConfig) -> Tensor:
    """Labels (B, H, W) of images (B, 3, H, W), uint8, of ``sizes`` (B, 2) inside their padding."""
    if views == TTAConfig():
        return model(images, sizes).argmax(dim=1)  # type: ignore[no-any-return]
    labels = torch.zeros(len(images), *images.shape[2:], dtype=torch.int64, device=images.device)
    for row, (height, width) in enumerate(sizes.tolist()):
        # By itself: a mirror image would have its padding at the other side.
        labels[row, :height, :width] = _probabilities(model, images[row, None, :, :height, :width], views)[0].argmax(0)
    return labels


def _probabilities(model: Segmenter, image: Tensor, views: TTAConfig) -> Tensor:
    """Sums (1, K, h, w) over the views of an image (1, 3, h, w)."""
    height, width = image.shape[2:]
    total = torch.zeros(1, model.num_classes, height, width, device=image.device)
    for scale in views.scales:
        size = [max(1, round(length * scale)) for length in (height, width)]
        scaled = image if scale == 1 else _resized(image, size)
        for flip in (False, True)[: 1 + views.flip]:
            found = _windows(model, scaled.flip(3) if flip else scaled, views.window)
            found = found.flip(3) if flip else found
            if scale != 1:
                found = F.interpolate(found, size=(height, width), mode="bilinear", align_corners=False)
            total += found
    return total


def _windows(model: Segmenter, image: Tensor, window: int | None) -> Tensor:
    """Probabilities (1, K, h, w) of an image, the mean of the windows that show a pixel."""
    height, width = image.shape[2:]
    if window is None or window >= max(height, width):
        return model(image).float().softmax(dim=1)  # type: ignore[no-any-return]
    total = torch.zeros(1, model.num_classes, height, width, device=image.device)
    count = torch.zeros(height, width, device=image.device)
    for top in _starts(height, window):
        for left in _starts(width, window):
            place = (..., slice(top, top + window), slice(left, left + window))
            total[place] += model(image[place]).float().softmax(dim=1)
            count[place] += 1
    return total / count


def _starts(length: int, window: int) -> Iterator[int]:
    """Where windows begin that cover a length: a step apart, the last one at the end."""
    last = max(0, length - window)
    yield from range(0, last, max(1, round(STEP * window)))
    yield last


def _resized(image: Tensor, size: list[int]) -> Tensor:
    pixels = F.interpolate(image.float(), size=size, mode="bilinear", align_corners=False, antialias=True)
    return pixels.round().clamp(0, 255).byte()
