"""Anchors: the reference boxes of the region proposal network (Faster R-CNN, section 3.1.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def base_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Make anchors centred on the origin, (len(ratios) * len(sizes), 4), ratio by ratio.

    ``sizes`` are square roots of the area in pixels, ``ratios`` height over width. Corners are rounded to whole pixels
    as torchvision does, so that its published weights give the same boxes.
    """
    height = torch.tensor(ratios, dtype=torch.float32).sqrt()[:, None]
    side = torch.tensor(sizes, dtype=torch.float32)[None]
    widths, heights = (side / height).flatten(), (side * height).flatten()
    return (torch.stack([-widths, -heights, widths, heights], dim=1) / 2).round()


def grid_anchors(base: Tensor, grid: tuple[int, int], image_size: tuple[int, int]) -> Tensor:
    """Repeat the anchors ``base`` (n, 4) over a feature map: (grid height * grid width * n, 4), row by row.

    The step between neighbours is ``image_size // grid``: the map's stride, except for a map that was rounded up (P6 of
    an image 800 pixels high is 13 high, and its step 61, not 64). ``image_size`` is the padded size of the batch, so
    that on such a map the anchors of an image depend on the padding. This is torchvision's rule, and its weights were
    trained with it.
    """
    y = torch.arange(grid[0], device=base.device) * (image_size[0] // grid[0])
    x = torch.arange(grid[1], device=base.device) * (image_size[1] // grid[1])
    y, x = torch.meshgrid(y, x, indexing="ij")
    shifts = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (shifts + base).reshape(-1, 4)
