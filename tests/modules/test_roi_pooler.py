from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops import roi_pool as torchvision_roi_pool

from detseg import kernels
from detseg.modules import RoIAlign, RoIPool
from detseg.modules.roi_pooler import assign_levels
from detseg.structures import Instances
from tests.ops.drawn import random_boxes, random_maps


def fast_roi_align(features: list[Tensor], boxes: Tensor, strides: Sequence[int], size: int) -> Tensor:
    return RoIAlign()(features, Instances(boxes, torch.ones(boxes.shape[:2], dtype=torch.bool)), strides, size)


def plain_roi_align(*arguments: Any) -> Tensor:
    with kernels.use(fast=False):
        return fast_roi_align(*arguments)


def roi_pool(features: list[Tensor], boxes: Tensor, strides: Sequence[int], size: int) -> Tensor:
    return RoIPool()(features, Instances(boxes, torch.ones(boxes.shape[:2], dtype=torch.bool)), strides, size)


ROI_ALIGN = pytest.mark.parametrize("roi_align", [plain_roi_align, fast_roi_align], ids=["plain", "fast"])
POOL = pytest.mark.parametrize("pool", [plain_roi_align, fast_roi_align, roi_pool])
STRIDES = (4, 8, 16, 32)
SIZE = (256, 128)


def awkward_boxes() -> Tensor:
    """Boxes (2, 44, 4) of every level: ordinary, without area, partly or wholly outside the map, bigger than it."""
    torch.manual_seed(2)
    ordinary = random_boxes(2, 16, side=256, degenerate=0.2)
    large = torch.tensor([0.0, 0, 230, 230]) + torch.rand(2, 4, 4) * 20
    tiny = random_boxes(2, 4, side=3) + 40
    outside = random_boxes(2, 8, side=200) - 100
    far = random_boxes(2, 4, side=50) + torch.tensor([-9e3, 9e3, -9e3, 9e3])
    bigger = torch.tensor([-300.0, -200, 700, 900]) + torch.rand(2, 4, 4) * 100
    point = torch.tensor([[0.0, 0, 0, 0], [64, 32, 64, 32], [128, 256, 128, 256], [-4, -4, -4, -4]]).expand(2, -1, -1)
    return torch.cat([ordinary, large, tiny, outside, far, bigger, point], dim=1)


def multi_scale(features: list[Tensor], boxes: Tensor, size: int) -> Tensor:
    names = [str(level) for level in range(len(features))]
    pooler = MultiScaleRoIAlign(names, size, sampling_ratio=2)
    return pooler(dict(zip(names, features, strict=True)), list(boxes), [SIZE] * len(boxes))


def single_scale(features: list[Tensor], boxes: Tensor, strides: tuple[int, ...], size: int) -> Tensor:
    """torchvision's RoIPool of each box alone, on the level that it belongs to."""
    pooled = []
    for image, own in enumerate(boxes):
        for box in own:
            area = float((box[2:] - box[:2]).prod())
            level = math.floor(4 + math.log2(max(math.sqrt(area), 1e-6) / 224) + 1e-6)
            level = min(max(level, int(math.log2(strides[0]))), int(math.log2(strides[-1])))
            index = strides.index(2**level)
            rois = torch.cat([torch.tensor([float(image)]), box])[None]
            pooled.append(torchvision_roi_pool(features[index], rois, size, 1 / strides[index]))
    return torch.cat(pooled)


@ROI_ALIGN
@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("strides", [STRIDES, (16,), (8, 16)])
def test_roi_align_agrees_with_torchvision(roi_align, strides, size) -> None:
    features, boxes = random_maps(strides), awkward_boxes()
    pooled = roi_align(features, boxes, strides, size)
    assert pooled.shape == (88, 3, size, size)
    assert_close(pooled, multi_scale(features, boxes, size), rtol=0, atol=1e-4)


@ROI_ALIGN
def test_gradient_of_roi_align_agrees_with_torchvision(roi_align) -> None:
    features, boxes = random_maps(STRIDES), awkward_boxes()
    ours = [feature.clone().requires_grad_() for feature in features]
    theirs = [feature.clone().requires_grad_() for feature in features]
    pooled = roi_align(ours, boxes, STRIDES, 7)
    weight = torch.randn_like(pooled)
    (pooled * weight).sum().backward()
    (multi_scale(theirs, boxes, 7) * weight).sum().backward()
    for own, other in zip(ours, theirs, strict=True):
        assert other.grad.abs().max() > 0
        assert_close(own.grad, other.grad, rtol=0, atol=1e-5 * float(other.grad.abs().max()))


@pytest.mark.parametrize("strides", [STRIDES, (16,), (8, 16)])
def test_roi_pool_agrees_with_torchvision(strides) -> None:
    features, boxes = random_maps(strides), awkward_boxes()
    pooled = roi_pool(features, boxes, strides, 3)
    assert_close(pooled, single_scale(features, boxes, strides, 3), rtol=0, atol=0)


def test_gradient_of_roi_pool_agrees_with_torchvision() -> None:
    features, boxes = random_maps((8, 16)), awkward_boxes()
    ours = [feature.clone().requires_grad_() for feature in features]
    theirs = [feature.clone().requires_grad_() for feature in features]
    pooled = roi_pool(ours, boxes, (8, 16), 3)
    weight = torch.randn_like(pooled)
    (pooled * weight).sum().backward()
    (single_scale(theirs, boxes, (8, 16), 3) * weight).sum().backward()
    for own, other in zip(ours, theirs, strict=True):
        assert_close(own.grad, other.grad)


@ROI_ALIGN
@pytest.mark.parametrize("box", [(1.3, 0.2, 6.1, 4.9), (-3.0, 2.5, 3.5, 11.0), (2.0, 2.0, 2.0, 2.0)])
def test_roi_align_agrees_with_its_definition(roi_align, box) -> None:
    feature = torch.randn(5, 7, dtype=torch.float64)

    def pixel(y: float, x: float) -> float:
        """Bilinear interpolation; up to one pixel outside it is the edge's value, beyond that zero."""
        if not (-1 <= y <= 5 and -1 <= x <= 7):
            return 0
        y, x = min(max(y, 0), 4), min(max(x, 0), 6)
        top, left = math.floor(y), math.floor(x)
        corners = product((top, min(top + 1, 4)), (left, min(left + 1, 6)))
        shares = product((1 - y + top, y - top), (1 - x + left, x - left))
        return sum(float(feature[corner]) * a * b for corner, (a, b) in zip(corners, shares, strict=True))

    x1, y1, x2, y2 = box
    step_y, step_x = max(y2 - y1, 1) / 4, max(x2 - x1, 1) / 4
    points = [[pixel(y1 + (i + 0.5) * step_y, x1 + (j + 0.5) * step_x) for j in range(4)] for i in range(4)]
    expected = torch.tensor(points).reshape(2, 2, 2, 2).mean(dim=(1, 3))
    pooled = roi_align([feature[None, None].float()], 4 * torch.tensor([[box]]), [4], 2)
    assert_close(pooled[0, 0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("box", [(1.3, 0.2, 6.1, 4.9), (-3.0, 2.0, 3.0, 11.0), (2.0, 2.0, 2.0, 2.0)])
def test_roi_pool_agrees_with_its_definition(box) -> None:
    """Fast R-CNN, section 2.1: whole pixels, the last one included, in bins that may share a row; nothing is zero."""
    feature = torch.randn(5, 7)
    left, top, right, bottom = (math.floor(side + 0.5) for side in box)
    height, width = max(bottom - top + 1, 1) / 2, max(right - left + 1, 1) / 2
    expected = torch.zeros(2, 2)
    for i, j in product(range(2), range(2)):
        rows = range(max(top + math.floor(i * height), 0), min(top + math.ceil((i + 1) * height), 5))
        columns = range(max(left + math.floor(j * width), 0), min(left + math.ceil((j + 1) * width), 7))
        expected[i, j] = max((float(feature[y, x]) for y, x in product(rows, columns)), default=0)
    pooled = roi_pool([feature[None, None]], 4 * torch.tensor([[box]]), [4], 2)
    assert_close(pooled[0, 0], expected)


def test_roi_pool_of_a_map_of_four_by_six() -> None:
    """Bins by floor and ceil: two rows of two, and of five columns three and three, the middle one in both."""
    feature = torch.tensor(
        [
            [1.0, 2, 9, 4, 5, 50],
            [3, 1, 7, 2, 1, 50],
            [2, 6, 1, 8, 3, 50],
            [4, 2, 3, 1, 2, 50],
        ]
    )
    boxes = 16 * torch.tensor([[[0.0, 0, 5, 3], [0, 0, 4, 3]]])  # pixels 0 to 5 and 0 to 4, the last one included
    pooled = roi_pool([feature[None, None]], boxes, [16], 2)
    assert pooled[:, 0].tolist() == [[[9, 50], [6, 50]], [[9, 9], [6, 8]]]


def test_gradient_of_roi_pool_goes_to_the_largest_pixel_of_each_bin() -> None:
    """Fast R-CNN, equation 4: a pixel gathers from every bin of every region where it is the largest."""
    feature = torch.randperm(35).reshape(5, 7).float().requires_grad_()
    boxes = torch.tensor([(0.0, 0, 3, 3), (1, 0, 6, 4), (-3, 2, 3, 11), (2, 2, 2, 2), (40, 40, 50, 50)])
    pooled = roi_pool([feature[None, None]], 4 * boxes[None], [4], 2)
    weight = torch.randn_like(pooled)
    (pooled * weight).sum().backward()
    expected = torch.zeros(5, 7)
    for region, (left, top, right, bottom) in enumerate(boxes.int().tolist()):
        for i, j in product(range(2), range(2)):
            height, width = (bottom - top + 1) / 2, (right - left + 1) / 2
            rows = range(max(top + math.floor(i * height), 0), min(top + math.ceil((i + 1) * height), 5))
            columns = range(max(left + math.floor(j * width), 0), min(left + math.ceil((j + 1) * width), 7))
            pixels = list(product(rows, columns))
            if pixels:
                expected[max(pixels, key=lambda pixel: float(feature[pixel].detach()))] += weight[region, 0, i, j]
    assert_close(feature.grad, expected)


@pytest.mark.parametrize(
    ("side", "stride"), [(1, 4), (111.9, 4), (112, 8), (223.9, 8), (224, 16), (447, 16), (448, 32), (5000, 32), (0, 4)]
)
def test_a_box_of_224_pixels_belongs_to_the_map_of_stride_16(side, stride) -> None:
    level = assign_levels(torch.tensor([[[10.0, 10, 10 + side, 10 + side]]]), STRIDES)
    assert STRIDES[level.item()] == stride


@POOL
def test_no_boxes(pool) -> None:
    assert pool(random_maps(STRIDES), torch.zeros(2, 0, 4), STRIDES, 7).shape == (0, 3, 7, 7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@POOL
def test_half_precision_moves_no_box(pool, dtype) -> None:
    features, boxes = [feature.to(dtype) for feature in random_maps(STRIDES)], awkward_boxes()
    pooled = pool(features, boxes, STRIDES, 2)
    expected = pool([feature.float() for feature in features], boxes, STRIDES, 2)
    assert torch.equal(pooled, expected.to(dtype))


@pytest.mark.parametrize("maps", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    "boxes", [torch.int64, torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
@POOL
def test_boxes_and_maps_of_other_types(pool, boxes, maps) -> None:
    """Coordinates that every type holds."""
    features = [feature.to(maps) for feature in random_maps(STRIDES)]
    whole = torch.tensor([[[0, 0, 240, 240], [16, 32, 200, 128]], [[128, 32, 200, 240], [0, 0, 8, 8]]])
    expected = pool([feature.double() for feature in features], whole.double(), STRIDES, 2)
    rounding = torch.finfo(maps).eps if maps.itemsize == 2 else 0  # of the result
    assert_close(pool(features, whole.to(boxes), STRIDES, 2).double(), expected, rtol=rounding, atol=1e-5)


def test_padding_and_maps_for_anchors_alone_are_not_read() -> None:
    features, boxes = random_maps((8, 16, 32)), awkward_boxes()
    regions = Instances(boxes, torch.rand(boxes.shape[:2]) < 0.5)
    garbage = regions._replace(boxes=torch.where(regions.valid[..., None], boxes, torch.nan))
    for pooler in (RoIAlign(), RoIPool()):
        pooled = pooler(features, garbage, (8, 16), 2)
        expected = pooler(features[:2], Instances(boxes, torch.ones_like(regions.valid)), (8, 16), 2)
        assert pooled.isfinite().all()
        assert torch.equal(pooled[regions.valid.flatten()], expected[regions.valid.flatten()])
