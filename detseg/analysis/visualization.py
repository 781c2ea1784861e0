"""Visualisation of channels: synthesised images, activation maps, and the image patches that activate them most.

Feature visualisation is gradient ascent on the input (Erhan et al. 2009, Visualizing Higher-Layer Features of a Deep
Network), regularised as in Olah et al. 2017 (Feature Visualization, distill.pub): jitter, blur, and gradients in a
space in which neighbouring pixels and colours are decorrelated.
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

from detseg.draw import ImageArray
from detseg.modules.backbones import ConvNet

# Square root of the covariance of red, green and blue in ImageNet (Olah et al. 2017); one column for each direction.
COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
CONTRAST = 0.5  # scales the decorrelated start and its steps to those in pixels
RATE = 0.05  # of Adam
ACROSS = 96  # pixels on the other axis of test images for receptive fields, the minimum for every network
LEAK = 0.05  # of the gradient, through inactive neurons
START = 0.01  # standard deviation of the initial values


class AscentConfig(NamedTuple):
    """Settings of gradient ascent.

    ``decorrelated`` optimises the Fourier spectrum, scaled like that of photographs, in decorrelated colours, instead
    of pixels.
    """

    steps: int
    jitter: int = 8  # pixels that a step shifts the image by, at most, so that no edge aligns with a stride
    blur: float = 0.0  # pixels, standard deviation of a Gaussian that removes fine detail
    decorrelated: bool = True
    seed: int = 0


class Ascent(NamedTuple):
    """Images synthesised by gradient ascent, and the mean activation of their channels."""

    pictures: list[ImageArray]
    before: list[float]  # on the initial image
    after: list[float]


class LeakyGradientReLU(nn.Module):
    """ReLU with the same values and a small gradient where the input is negative or saturated."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(0, self.limit) + LEAK * (x - x.detach())


class Patch(NamedTuple):
    """An image patch that activates a channel."""

    activation: float
    image: Path
    pixels: ImageArray  # the whole image, as the network saw it
    box: tuple[int, int, int, int]  # x1, y1, x2, y2: the receptive field of the cell
    centre: tuple[int, int, int, int]  # x1, y1, x2, y2: the pixels under the cell


def ascend(
    backbone: ConvNet,
    block: str,
    channels: Sequence[int],
    side: int,
    config: AscentConfig,
) -> Ascent:
    """Synthesise a square image of ``side`` pixels for each channel that maximises its mean activation after ``block``.

    Channels are independent. ReLUs pass a small gradient where they are inactive, so that a channel without activation
    at the start can be reached.
    """
    backbone = _with_leaky_gradients(backbone)
    generator = torch.Generator().manual_seed(config.seed)
    device = next(backbone.parameters()).device
    shape = (1, 3, side, side // 2 + 1, 2) if config.decorrelated else (1, 3, side, side)
    start = START * torch.randn(shape, generator=generator)
    values = start.repeat(len(channels), *(1,) * (start.ndim - 1)).to(device).requires_grad_()
    optimizer = torch.optim.Adam([values], lr=RATE)

    def pictures() -> Tensor:
        pixels = _from_spectrum(values, side) if config.decorrelated else values
        if config.blur:
            pixels = gaussian_blur(pixels, 2 * int(np.ceil(3 * config.blur)) + 1, config.blur)
        return 255 * torch.sigmoid(pixels)

    def strengths(images: Tensor) -> Tensor:
        (feature,) = backbone.forward_intermediates(images, [block], stride_aligned=False)
        return feature[torch.arange(len(channels)), list(channels)].mean(dim=(1, 2))

    with torch.no_grad():
        before = strengths(pictures()).tolist()
    for _ in range(config.steps):
        shift = torch.randint(-config.jitter, config.jitter + 1, (2,), generator=generator).tolist()
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
def activations(backbone: ConvNet, block: str, image: ImageArray) -> NDArray[np.float32]:
    """Compute the map (C, H, W) of an image after a block."""
    device = next(backbone.parameters()).device
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].to(device)
    (feature,) = backbone.forward_intermediates(pixels, [block], stride_aligned=False)
    return np.asarray(feature[0].float().cpu().numpy(), dtype=np.float32)


def paint(feature: NDArray[np.float32]) -> ImageArray:
    """Colour one channel's map (H, W): red above zero, blue below, white at zero."""
    strength = feature / max(float(np.abs(feature).max()), 1e-12)
    above, below = np.array((178, 24, 43)), np.array((33, 102, 172))
    end = np.where(strength[..., None] > 0, above, below)
    return np.asarray(255 + np.abs(strength)[..., None] * (end - 255)).round().astype(np.uint8)


@torch.no_grad()
def receptive_field(backbone: ConvNet, block: str, axis: int, cell: int, length: int) -> tuple[int, int]:
    """Measure the receptive field of a cell after ``block`` along one axis of an image: first pixel and end.

    ``axis`` is 0 for rows and 1 for columns, ``length`` the image's pixels along it, ``cell`` the index in the map. NaN
    propagates to everything computed from it, whatever the weights and activations. So each end is the first pixel
    from its side whose NaN reaches the cell.
    """
    device = next(backbone.parameters()).device

    def reached(pixels: slice) -> bool:
        image = torch.zeros(1, 3, ACROSS, length, device=device)
        image[..., pixels] = torch.nan
        with torch.backends.cudnn.flags(enabled=False):  # its fast convolutions would spread NaN over whole tiles
            (feature,) = backbone.forward_intermediates(image if axis else image.mT, [block], stride_aligned=False)
        return bool(feature.movedim(2 + axis, 0)[cell].isnan().any())

    pixels = range(length)
    before = bisect.bisect_left(pixels, True, key=lambda count: reached(slice(count + 1)))
    behind = bisect.bisect_left(pixels, True, key=lambda count: reached(slice(length - 1 - count, None)))
    return before, length - behind


def exciting_patches(
    backbone: ConvNet, block: str, channels: Sequence[int], images: Iterable[tuple[Path, ImageArray]], count: int
) -> list[list[Patch]]:
    """Find, for each channel, the ``count`` images with the highest activation of a cell, and its receptive field.

    Memory holds only these images.
    """
    best: list[list[tuple[float, int, Path, ImageArray, tuple[int, int], tuple[int, int]]]] = [[] for _ in channels]
    for number, (path, image) in enumerate(images):
        feature = activations(backbone, block, image)
        cells = feature.shape[1], feature.shape[2]
        for heap, channel in zip(best, channels, strict=True):
            row, column = divmod(int(feature[channel].argmax()), cells[1])
            entry = (float(feature[channel, row, column]), -number, path, image, (row, column), cells)
            (heapq.heappush if len(heap) < count else heapq.heappushpop)(heap, entry)
    field = functools.cache(functools.partial(receptive_field, backbone, block))
    patches: list[list[Patch]] = []
    for heap in best:
        patches.append([])
        for activation, _, path, image, cell, cells in sorted(heap, key=lambda entry: entry[:2], reverse=True):
            height, width = image.shape[:2]
            (y1, y2), (x1, x2) = field(0, cell[0], height), field(1, cell[1], width)
            (top, bottom), (left, right) = _under(cell[0], cells[0], height), _under(cell[1], cells[1], width)
            patch = Patch(activation, path, image, (x1, y1, x2, y2), (left, top, right, bottom))
            patches[-1].append(patch)
    return patches


def _with_leaky_gradients(backbone: ConvNet) -> ConvNet:
    """Copy a backbone and let its ReLUs pass a small gradient where they are inactive."""
    backbone = copy.deepcopy(backbone)
    for parent in list(backbone.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, (nn.ReLU, nn.ReLU6)):
                setattr(parent, name, LeakyGradientReLU(6.0 if isinstance(layer, nn.ReLU6) else torch.inf))
    return backbone


def _under(cell: int, cells: int, pixels: int) -> tuple[int, int]:
    """Return the first pixel under a cell and the end, along one side of a map."""
    return round(cell * pixels / cells), round((cell + 1) * pixels / cells)


def _from_spectrum(values: Tensor, side: int) -> Tensor:
    """Transform spectra (B, 3, side, side // 2 + 1, 2) in decorrelated colours to images (B, 3, side, side).

    The spectrum of photographs falls with the frequency; scaling by it makes steps affect all frequencies alike.
    """
    across, down = torch.fft.rfftfreq(side), torch.fft.fftfreq(side)[:, None]
    frequency = (across**2 + down**2).sqrt().clamp(min=1 / side).to(values.device)
    spectrum = torch.view_as_complex(values) / frequency
    pixels = torch.fft.irfft2(spectrum, s=(side, side), norm="ortho")
    colours = torch.tensor(COLOURS, device=values.device)
    return CONTRAST * torch.einsum("ck,bkhw->bchw", colours, pixels)
