"""Convolutions of 3 x 3 with fewer multiplications (Lavin & Gray 2015, arXiv:1509.09308): F(4 x 4, 3 x 3).

The output is cut into tiles of 4 x 4 pixels. Each needs 6 x 6 of the input: a product of two polynomials that is found
from its values at six points, so that 36 multiplications do what 144 would. Over all tiles and channels they are 36
products of matrices. What goes in and comes out of them is transformed by small constant matrices.

The rounding of single precision costs about twice what it costs a plain convolution. Half precision would lose too
much: where a processor is not quicker in it, maps of bfloat16 are transformed and multiplied in single precision. On
AMD's processors MKL multiplies matrices at two fifths of the rate at which oneDNN convolves, and nothing would be left
of what is saved. A GPU has kernels that choose for themselves. What is compiled, exported or traced keeps the plain
convolution, which compilers know, and which takes maps of any size.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from detseg.kernels.processor import autocast_slows, is_amd

TILE, KERNEL = 4, 3
WINDOW = TILE + KERNEL - 1  # pixels of the input that a tile needs on each side
POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)  # and infinity; 0, 1, -1, 2 and -2 would round twice as much
TILES = 160  # that are transformed together: few enough to stay in the cache
LEAST_TILES, LEAST_CHANNELS = 64, 96  # below, transforms take longer than the multiplications that they save


def convolve(layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What ``layer`` makes of maps ``x`` with this ``weight`` and ``bias`` in place of its own, the quickest way."""
    if _fits(layer) and _pays(x, weight):
        x = x.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else x
        return _Convolution.apply(x, weight, bias)  # type: ignore[no-any-return]
    return layer._conv_forward(x, weight, bias)  # type: ignore[no-any-return]


def _fits(layer: nn.Conv2d) -> bool:
    """Whether a layer keeps the size of the maps, by kernels of 3 x 3 over zeros beyond the edge."""
    shape = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    return shape == ((3, 3), (1, 1), (1, 1), (1, 1)) and layer.groups == 1 and layer.padding_mode == "zeros"


def _pays(x: Tensor, weight: Tensor) -> bool:
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    return (
        x.device.type == "cpu"
        and weight.dtype == torch.float32
        and (autocast_slows(x) if torch.is_autocast_enabled("cpu") else x.dtype == torch.float32)
        and len(x) * _tiles_along(x.shape[2]) * _tiles_along(x.shape[3]) >= LEAST_TILES
        and min(weight.shape[:2]) >= LEAST_CHANNELS
        and x.is_contiguous(memory_format=torch.channels_last)
        and not is_amd()
    )


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return _convolution(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        with torch.autocast("cpu", enabled=False):
            return (
                _convolution(gradient, weight.flip(2, 3).transpose(0, 1), None) if of_x else None,
                _weight_gradient(x, gradient) if of_weight else None,
                gradient.sum(dim=(0, 2, 3), dtype=torch.float32) if of_bias else None,
            )


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    outputs, inputs = weight.shape[:2]
    to_output, to_input, to_weight = map(torch.from_numpy, _transforms())
    kernels = (to_weight @ weight.permute(2, 3, 1, 0).reshape(KERNEL**2, -1)).view(-1, inputs, outputs)
    maps = x.permute(0, 2, 3, 1)
    shape = len(x), outputs, *x.shape[2:]
    found = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    for images, rows in _parts(maps):
        windows = to_input @ _cut(maps, images, rows, WINDOW)
        products = windows.view(WINDOW**2, -1, inputs) @ kernels
        tiles = to_output @ products.view(WINDOW**2, -1)
        if bias is not None:
            tiles.view(-1, outputs).add_(bias)
        part = found.permute(0, 2, 3, 1)[images, TILE * rows.start : TILE * rows.stop]
        tiles = tiles.view(TILE, TILE, len(part), -1, _tiles_along(part.shape[2]), outputs).permute(2, 3, 0, 4, 1, 5)
        part.copy_(tiles.flatten(3, 4).flatten(1, 2)[:, : part.shape[1], : part.shape[2]])
    return found


def _weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    to_output, to_input, to_weight = map(torch.from_numpy, _transforms())
    maps, gradient = x.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)
    inputs, outputs = maps.shape[3], gradient.shape[3]
    total = maps.new_zeros(WINDOW**2, inputs, outputs, dtype=torch.float32)
    for images, rows in _parts(maps):
        windows = (to_input @ _cut(maps, images, rows, WINDOW)).view(WINDOW**2, -1, inputs)
        tiles = (to_output.T @ _cut(gradient, images, rows, TILE)).view(WINDOW**2, -1, outputs)
        total.baddbmm_(windows.transpose(1, 2), tiles)
    return (to_weight.T @ total.view(WINDOW**2, -1)).view(KERNEL, KERNEL, inputs, outputs).permute(3, 2, 0, 1)


def _tiles_along(pixels: int) -> int:
    return -(-pixels // TILE)


def _parts(maps: Tensor) -> Iterator[tuple[slice, slice]]:
    """The maps (B, H, W, C) in parts of about ``TILES`` tiles: some images, and some rows of tiles of them."""
    images, height, width = len(maps), _tiles_along(maps.shape[1]), _tiles_along(maps.shape[2])
    rows = min(max(1, TILES // width), height)
    together = max(1, TILES // (height * width))
    for image in range(0, images, together):
        for row in range(0, height, rows):
            yield slice(image, image + together), slice(row, min(row + rows, height))


def _cut(maps: Tensor, images: slice, rows: slice, size: int) -> Tensor:
    """``size`` x ``size`` pixels about each tile of a part of maps (B, H, W, C): float32 (size * size, tiles * C)."""
    margin = (size - TILE) // 2
    height, width = maps.shape[1:3]
    top, bottom = TILE * rows.start - margin, TILE * rows.stop + margin
    around = (margin, TILE * _tiles_along(width) + margin - width, max(0, -top), max(0, bottom - height))
    part = F.pad(maps[images, max(0, top) : bottom], (0, 0, *around))
    return part.unfold(1, size, TILE).unfold(2, size, TILE).permute(4, 5, 0, 1, 2, 3).reshape(size * size, -1).float()


@cache
def _transforms() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """What a tile is of 6 x 6 products, these of a window, and those of a kernel, both directions at once.

    (16, 36), (36, 36) and (36, 9). Toom and Cook: a polynomial of degree 5 is found from its values at five points and
    its highest coefficient.
    """
    powers = np.array([[point**power for power in range(TILE)] for point in POINTS] + [[0] * (TILE - 1) + [1]])
    others = [[other for other in POINTS if other != point] for point in POINTS]
    scales = np.array([np.prod([point - other for other in rest]) for point, rest in zip(POINTS, others, strict=True)])
    kernel = np.concatenate([powers[:-1, :KERNEL] / scales[:, None], [[0] * (KERNEL - 1) + [1]]])
    window = np.array([[*np.poly(rest)[::-1], 0] for rest in others] + [np.poly(POINTS)[::-1]])
    to_output, to_input, to_weight = (np.kron(each, each).astype(np.float32) for each in (powers.T, window, kernel))
    return to_output, to_input, to_weight
