"""What a channel of a layer responds to: pictures that are made for it, maps of an image, and patches of photographs.

Feature visualisation is gradient ascent on the input (Erhan et al. 2009, Visualizing Higher-Layer Features of a Deep
Network). What makes its pictures natural is from Olah et al. 2017 (Feature Visualization, distill.pub): jitter, blur,
and the gradient in a space where neighbouring pixels and the colours are decorrelated.
"""

from __future__ import annotations

import bisect
import copy
import functools
import heapq
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from detseg.modules.backbones import ConvNet

ImageSample = NDArray[np.uint8]  # (H, W, 3), RGB

# Square root of the covariance of red, green and blue in ImageNet (Olah et al. 2017); one column, one direction.
COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
CONTRAST = 0.5  # what brings the decorrelated start, and the steps, to the size of the others
RATE = 0.05  # of Adam
ACROSS = 96  # pixels of the other side of what extents are measured on: the least that every network takes
LEAK = 0.05  # of the gradient, through neurons that are silent
START = 0.01  # deviation of the numbers that the pictures begin with


class Ascent(NamedTuple):
    """What gradient ascent made for some channels, and how strong they are in the mean over all cells."""

    pictures: list[ImageSample]
    before: list[float]  # on the picture of the start
    after: list[float]


class Leaking(nn.Module):
    """An activation with the same values, but whose gradient also passes where it is silent or saturated."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(0, self.limit) + LEAK * (x - x.detach())


class Patch(NamedTuple):
    """A part of an image that excites a channel."""

    activation: float
    image: Path
    pixels: ImageSample  # the image, as the network saw it
    box: tuple[int, int, int, int]  # x1, y1, x2, y2: what the cell sees of ``pixels``
    centre: tuple[int, int, int, int]  # x1, y1, x2, y2: what lies under the cell alone


def ascend(
    backbone: ConvNet,
    block: str,
    channels: Sequence[int],
    side: int,
    steps: int,
    jitter: int = 8,
    blur: float = 0.0,
    decorrelated: bool = True,
    seed: int = 0,
) -> Ascent:
    """Make a square picture for each channel in which its mean after ``block`` is large.

    Every step sees the pictures moved by up to ``jitter`` pixels, so that no edge is bound to the grid of a stride.
    ``blur`` is the deviation in pixels of a Gaussian that takes away what is finer. ``decorrelated`` pictures are
    sought in their Fourier spectrum, scaled as that of photographs, and in the decorrelated colours of these; others
    in their pixels. Channels do not influence each other. Through ReLUs some of the gradient passes in any case, or
    there would be no way to a channel that is silent at the start.
    """
    backbone = _leaking(backbone)
    generator = torch.Generator().manual_seed(seed)
    device = next(backbone.parameters()).device
    shape = (1, 3, side, side // 2 + 1, 2) if decorrelated else (1, 3, side, side)
    start = START * torch.randn(shape, generator=generator)
    values = start.repeat(len(channels), *(1,) * (start.ndim - 1)).to(device).requires_grad_()
    optimizer = torch.optim.Adam([values], lr=RATE)

    def pictures() -> Tensor:
        pixels = _from_spectrum(values, side) if decorrelated else values
        if blur:
            pixels = gaussian_blur(pixels, 2 * int(np.ceil(3 * blur)) + 1, blur)
        return 255 * torch.sigmoid(pixels)

    def strengths(images: Tensor) -> Tensor:
        (feature,) = backbone.forward_intermediates(images, [block], stride_aligned=False)
        return feature[torch.arange(len(channels)), list(channels)].mean(dim=(1, 2))

    with torch.no_grad():
        before = strengths(pictures()).tolist()
    for _ in range(steps):
        shift = torch.randint(-jitter, jitter + 1, (2,), generator=generator).tolist()
        loss = -strengths(pictures().roll(shift, dims=(2, 3))).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        final = pictures()
        after = strengths(final).tolist()
    pixels = final.round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return Ascent(list(pixels), before, after)


@torch.no_grad()
def activations(backbone: ConvNet, block: str, image: ImageSample) -> NDArray[np.float32]:
    """The map (C, H, W) of an image after a block."""
    device = next(backbone.parameters()).device
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].to(device)
    (feature,) = backbone.forward_intermediates(pixels, [block], stride_aligned=False)
    return np.asarray(feature[0].float().cpu().numpy(), dtype=np.float32)


def paint(feature: NDArray[np.float32]) -> ImageSample:
    """One channel's map (H, W) in colours: red above zero, blue below, white at it, the largest value fully."""
    strength = feature / max(float(np.abs(feature).max()), 1e-12)
    above, below = np.array((178, 24, 43)), np.array((33, 102, 172))
    end = np.where(strength[..., None] > 0, above, below)
    return np.asarray(255 + np.abs(strength)[..., None] * (end - 255)).round().astype(np.uint8)


@torch.no_grad()
def extent(backbone: ConvNet, block: str, axis: int, cell: int, length: int) -> tuple[int, int]:
    """Where the pixels that a cell after ``block`` depends on begin and end, along one axis of an image.

    ``axis`` is 0 for the rows and 1 for the columns, ``length`` the image's pixels along it, ``cell`` the place in the
    map. A value that is not a number spreads to all that is computed from it, whatever the weights are and whichever
    neurons are silent. So an end is where it begins to reach the cell, from either side.
    """
    device = next(backbone.parameters()).device

    def reached(pixels: slice) -> bool:
        image = torch.zeros(1, 3, ACROSS, length, device=device)
        image[..., pixels] = torch.nan
        with torch.backends.cudnn.flags(enabled=False):  # its fast convolutions would spread it over whole tiles
            (feature,) = backbone.forward_intermediates(image if axis else image.mT, [block], stride_aligned=False)
        return bool(feature.movedim(2 + axis, 0)[cell].isnan().any())

    pixels = range(length)
    before = bisect.bisect_left(pixels, True, key=lambda count: reached(slice(count + 1)))
    behind = bisect.bisect_left(pixels, True, key=lambda count: reached(slice(length - 1 - count, None)))
    return before, length - behind


def exciting_patches(
    backbone: ConvNet, block: str, channels: Sequence[int], images: Iterable[tuple[Path, ImageSample]], count: int
) -> list[list[Patch]]:
    """For each channel, the ``count`` images that excite one of its cells most, and what that cell sees of them.

    Only these images are kept while the others are looked through.
    """
    best: list[list[tuple[float, int, Path, ImageSample, tuple[int, int], tuple[int, int]]]] = [[] for _ in channels]
    for number, (path, image) in enumerate(images):
        feature = activations(backbone, block, image)
        cells = feature.shape[1], feature.shape[2]
        for heap, channel in zip(best, channels, strict=True):
            row, column = divmod(int(feature[channel].argmax()), cells[1])
            entry = (float(feature[channel, row, column]), -number, path, image, (row, column), cells)
            (heapq.heappush if len(heap) < count else heapq.heappushpop)(heap, entry)
    extents = functools.cache(functools.partial(extent, backbone, block))
    found: list[list[Patch]] = []
    for heap in best:
        found.append([])
        for activation, _, path, image, cell, cells in sorted(heap, key=lambda entry: entry[:2], reverse=True):
            height, width = image.shape[:2]
            (y1, y2), (x1, x2) = extents(0, cell[0], height), extents(1, cell[1], width)
            (top, bottom), (left, right) = _under(cell[0], cells[0], height), _under(cell[1], cells[1], width)
            patch = Patch(activation, path, image, (x1, y1, x2, y2), (left, top, right, bottom))
            found[-1].append(patch)
    return found


def _leaking(backbone: ConvNet) -> ConvNet:
    """A copy whose ReLUs let through some gradient in any case."""
    backbone = copy.deepcopy(backbone)
    for parent in list(backbone.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, (nn.ReLU, nn.ReLU6)):
                setattr(parent, name, Leaking(6.0 if isinstance(layer, nn.ReLU6) else torch.inf))
    return backbone


def _under(cell: int, cells: int, pixels: int) -> tuple[int, int]:
    """Where the pixels under a cell begin and end, along one side of a map."""
    return round(cell * pixels / cells), round((cell + 1) * pixels / cells)


def _from_spectrum(values: Tensor, side: int) -> Tensor:
    """Pictures (B, 3, side, side) around zero, of their spectra (B, 3, side, side // 2 + 1, 2) in decorrelated colours.

    The spectrum of photographs falls with the frequency: a step of the same size is to change all frequencies alike.
    """
    across, down = torch.fft.rfftfreq(side), torch.fft.fftfreq(side)[:, None]
    frequency = (across**2 + down**2).sqrt().clamp(min=1 / side).to(values.device)
    spectrum = torch.view_as_complex(values) / frequency
    pixels = torch.fft.irfft2(spectrum, s=(side, side), norm="ortho")
    colours = torch.tensor(COLOURS, device=values.device)
    return CONTRAST * torch.einsum("ck,bkhw->bchw", colours, pixels)
