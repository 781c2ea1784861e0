"""Theoretical and effective receptive fields (Luo et al. 2016, arXiv:1701.04128)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detseg.analysis.charts import escape, pixels_of, to_figure
from detseg.analysis.visualization import receptive_field
from detseg.draw import ImageArray
from detseg.modules.backbones import ConvNet

SIGNIFICANT = 0.0455  # of the largest gradient: two standard deviations of a Gaussian (section 3)
COLUMNS, PANEL = 4, 260


class Field(NamedTuple):
    """The receptive field of the central cell of a map."""

    name: str
    theoretical: tuple[int, int, int, int]  # x1, y1, x2, y2
    gradient: NDArray[np.float32]  # (H, W) absolute gradient of the cell by each pixel, 1 at most

    @property
    def sides(self) -> tuple[int, float]:
        """Side of the theoretical field, and of a square as large as the significant part of the gradient."""
        return self.theoretical[2] - self.theoretical[0], float((self.gradient >= SIGNIFICANT).sum() ** 0.5)


def gradient_field(function: Callable[[Tensor], Tensor], images: Iterable[Tensor]) -> NDArray[np.float32]:
    """Average, over images (1, 3, H, W), the absolute gradient of the central cell of a map by each pixel (H, W).

    The gradient is that of the sum of all channels.
    """
    total: Tensor | None = None
    for image in images:
        pixels = image.float().requires_grad_()
        feature = function(pixels)
        feature[0, :, feature.shape[2] // 2, feature.shape[3] // 2].sum().backward()  # type: ignore[no-untyped-call]
        assert pixels.grad is not None
        gradient = pixels.grad[0].abs().sum(dim=0)
        total = gradient if total is None else total + gradient
    assert total is not None
    return np.asarray((total / total.max().clamp(min=1e-30)).cpu().numpy())


def backbone_fields(backbone: ConvNet, blocks: Sequence[str], images: Sequence[Tensor]) -> list[Field]:
    """Measure the fields after ``blocks`` of a backbone on images (1, 3, S, S), uint8."""
    side = images[0].shape[-1]
    fields = []
    for block in blocks:

        def function(pixels: Tensor, block: str = block) -> Tensor:
            return backbone.forward_intermediates(pixels, [block], stride_aligned=False)[0]

        with torch.no_grad():
            cells = function(images[0].float()).shape[2]
        (y1, y2), (x1, x2) = (receptive_field(backbone, block, axis, cells // 2, side) for axis in (0, 1))
        fields.append(Field(block, (x1, y1, x2, y2), gradient_field(function, images)))
    return fields


def stack_fields(kernels: Sequence[int], count: int, seed: int) -> list[Field]:
    """Measure the fields of stacked convolutions with these kernel sizes, random weights and no nonlinearity.

    The name of each counts the weights for C channels, and those of one convolution with the same field (Simonyan and
    Zisserman 2014, section 2.3: 27 C^2 of three 3 x 3 against 49 C^2 of one 7 x 7).
    """
    extent = 1 + sum(kernel - 1 for kernel in kernels)
    side = 2 * extent + 1
    generator = torch.Generator().manual_seed(seed)
    fields, field, weights = [], 1, 0
    for depth in range(1, len(kernels) + 1):
        field += kernels[depth - 1] - 1
        weights += kernels[depth - 1] ** 2
        total = torch.zeros(side, side)
        for _ in range(count):
            layers = [nn.Conv2d(3, 3, kernel, padding=kernel // 2, bias=False) for kernel in kernels[:depth]]
            for layer in layers:
                layer.weight.data.copy_(torch.rand(layer.weight.shape, generator=generator))
            total += torch.from_numpy(gradient_field(nn.Sequential(*layers), [torch.zeros(1, 3, side, side)]))
        first = side // 2 - field // 2
        name = f"{' + '.join(map(str, kernels[:depth]))}: {weights} C²; one {field} x {field}: {field**2} C²"
        box = (first, first, first + field, first + field)
        fields.append(Field(name, box, np.asarray(total / total.max())))
    return fields


def draw_fields(title: str, fields: Sequence[Field]) -> ImageArray:
    """Draw the gradient of each field, with a frame around the theoretical field."""
    from matplotlib.patches import Rectangle

    columns = min(COLUMNS, len(fields))
    rows = -(-len(fields) // columns)
    figure = to_figure((max(columns * PANEL, 640), rows * (PANEL + 40) + 50))
    figure.suptitle(escape(title))
    for position, field in enumerate(fields, 1):
        axes = figure.add_subplot(rows, columns, position, xticks=[], yticks=[])
        axes.imshow(np.sqrt(field.gradient), cmap="magma", vmin=0, vmax=1, interpolation="nearest")
        x1, y1, x2, y2 = field.theoretical
        corner, size = (x1 - 0.5, y1 - 0.5), (x2 - x1, y2 - y1)
        axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor="#56B4E9", linewidth=2))
        theoretical, effective = field.sides
        axes.set_title(f"{field.name}\nfield {theoretical}, effective {effective:.0f}", fontsize=9)
    return pixels_of(figure)
