"""3 x 3 convolution by Winograd's minimal filtering, F(4 x 4, 3 x 3) (Lavin & Gray 2015, arXiv:1509.09308).

The output is cut into tiles of 4 x 4 pixels, each of which depends on 6 x 6 pixels of the input. The convolution is a
product of two polynomials, which follows from its values at six points: 36 multiplications instead of 144. Over all
tiles and channels these are 36 matrix products, whose inputs and outputs are transformed by small constant matrices.

The rounding error in single precision is about twice that of a plain convolution. Half precision would lose too much:
where a CPU is not faster in bfloat16, bfloat16 maps are transformed and multiplied in single precision. On AMD's CPUs
MKL multiplies matrices at two fifths of the rate at which oneDNN convolves, which outweighs the gain. A GPU's library
chooses its own algorithm. Compiled, exported and traced code keeps the plain convolution, which compilers know and
which takes maps of any size.
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

from detseg.kernels.cpu import autocast_slows, is_amd

TILE, KERNEL = 4, 3
WINDOW = TILE + KERNEL - 1  # input pixels on each side of a tile
POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)  # and infinity; 0, 1, -1, 2 and -2 would round twice as much
TILES = 160  # transformed together: few enough to stay in the cache
MIN_TILES, MIN_CHANNELS = 64, 96  # below these, the transforms cost more than the products they save


def fits(layer: nn.Conv2d) -> bool:
    """Return true if a layer is a 3 x 3 convolution with stride 1, zero padding 1 and a single group."""
    shape = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    return shape == ((3, 3), (1, 1), (1, 1), (1, 1)) and layer.groups == 1 and layer.padding_mode == "zeros"


def pays(x: Tensor, weight: Tensor) -> bool:
    """Return true if ``conv2d`` of these maps is faster than PyTorch's on this machine."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    return (
        x.device.type == "cpu"
        and weight.dtype == torch.float32
        and (autocast_slows(x) if torch.is_autocast_enabled("cpu") else x.dtype == torch.float32)
        and len(x) * _tiles_along(x.shape[2]) * _tiles_along(x.shape[3]) >= MIN_TILES
        and min(weight.shape[:2]) >= MIN_CHANNELS
        and x.is_contiguous(memory_format=torch.channels_last)
        and not is_amd()
    )


def convolve(layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve ``x`` as ``layer`` does, with this ``weight`` and ``bias``."""
    if fits(layer) and pays(x, weight):
        return conv2d(x, weight, bias)
    return layer._conv_forward(x, weight, bias)  # type: ignore[no-any-return]


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute ``F.conv2d(x, weight, bias, padding=1)``, for 3 x 3 kernels, with autocast's type as the result's."""
    x = x.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else x
    return _Convolution.apply(x, weight, bias)  # type: ignore[no-any-return]


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
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        with torch.autocast("cpu", enabled=False):
            return (
                _convolution(gradient, weight.flip(2, 3).transpose(0, 1), None) if needs_x else None,
                _weight_gradient(x, gradient) if needs_weight else None,
                gradient.sum(dim=(0, 2, 3), dtype=torch.float32) if needs_bias else None,
            )


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    outputs, inputs = weight.shape[:2]
    to_output, to_input, to_weight = map(torch.from_numpy, _transforms())
    kernels = (to_weight @ weight.permute(2, 3, 1, 0).reshape(KERNEL**2, -1)).view(-1, inputs, outputs)
    maps = x.permute(0, 2, 3, 1)
    shape = len(x), outputs, *x.shape[2:]
    output = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    for images, rows in _parts(maps):
        windows = to_input @ _cut(maps, images, rows, WINDOW)
        products = windows.view(WINDOW**2, -1, inputs) @ kernels
        tiles = to_output @ products.view(WINDOW**2, -1)
        if bias is not None:
            tiles.view(-1, outputs).add_(bias)
        part = output.permute(0, 2, 3, 1)[images, TILE * rows.start : TILE * rows.stop]
        tiles = tiles.view(TILE, TILE, len(part), -1, _tiles_along(part.shape[2]), outputs).permute(2, 3, 0, 4, 1, 5)
        part.copy_(tiles.flatten(3, 4).flatten(1, 2)[:, : part.shape[1], : part.shape[2]])
    return output


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
    """Split maps (B, H, W, C) into parts of about ``TILES`` tiles: some images, and some rows of tiles of them."""
    images, height, width = len(maps), _tiles_along(maps.shape[1]), _tiles_along(maps.shape[2])
    rows = min(max(1, TILES // width), height)
    together = max(1, TILES // (height * width))
    for image in range(0, images, together):
        for row in range(0, height, rows):
            yield slice(image, image + together), slice(row, min(row + rows, height))


def _cut(maps: Tensor, images: slice, tile_rows: slice, size: int) -> Tensor:
    """Cut ``size`` x ``size`` pixels around each tile of a part of maps (B, H, W, C): float32 (size^2, tiles * C)."""
    margin = (size - TILE) // 2
    height, width = maps.shape[1:3]
    top, bottom = TILE * tile_rows.start - margin, TILE * tile_rows.stop + margin
    around = (margin, TILE * _tiles_along(width) + margin - width, max(0, -top), max(0, bottom - height))
    part = F.pad(maps[images, max(0, top) : bottom], (0, 0, *around))
    return part.unfold(1, size, TILE).unfold(2, size, TILE).permute(4, 5, 0, 1, 2, 3).reshape(size * size, -1).float()


@cache
def _transforms() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Compute the transforms to a tile, of a window and of a kernel: (16, 36), (36, 36) and (36, 9).

    Each covers both directions at once. Toom-Cook: a polynomial of degree 5 follows from its values at five points and
    its highest coefficient.
    """
    powers = np.array([[point**power for power in range(TILE)] for point in POINTS] + [[0] * (TILE - 1) + [1]])
    others = [[other for other in POINTS if other != point] for point in POINTS]
    scales = np.array([np.prod([point - other for other in rest]) for point, rest in zip(POINTS, others, strict=True)])
    kernel = np.concatenate([powers[:-1, :KERNEL] / scales[:, None], [[0] * (KERNEL - 1) + [1]]])
    window = np.array([[*np.poly(rest)[::-1], 0] for rest in others] + [np.poly(POINTS)[::-1]])
    to_output, to_input, to_weight = (np.kron(each, each).astype(np.float32) for each in (powers.T, window, kernel))
    return to_output, to_input, to_weight
