"""Upsampling begins as bilinear interpolation, and is linear in the maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from detseg.modules.upsampling import Upsampling


def caffe_filter(size: int) -> np.ndarray:
    """The filter of the authors' net surgery, written out from its definition."""
    factor = (size + 1) // 2
    center = factor - 1 if size % 2 == 1 else factor - 0.5
    return np.array(
        [[(1 - abs(y - center) / factor) * (1 - abs(x - center) / factor) for x in range(size)] for y in range(size)]
    )


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
@torch.no_grad()
def test_it_begins_as_bilinear_interpolation(factor: int) -> None:
    maps = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    upsampled = Upsampling(3, factor)(maps)
    expected = F.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)
    assert upsampled.shape == expected.shape
    inside = (..., slice(factor, -factor), slice(factor, -factor))  # at the edge, one takes zeros and the other copies
    assert_close(upsampled[inside], expected[inside])
    assert not torch.equal(upsampled[..., 0, :], expected[..., 0, :])


@pytest.mark.parametrize("factor", [2, 4])
def test_its_weights_are_the_authors(factor: int) -> None:
    weight = Upsampling(4, factor).weight.detach().numpy()
    expected = caffe_filter(2 * factor)
    for one in range(4):
        for other in range(4):
            assert weight[one, other] == pytest.approx(expected if one == other else 0 * expected)
