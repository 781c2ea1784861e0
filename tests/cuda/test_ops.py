"""Operations and kernels on a GPU against the same on the CPU, in double precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from detseg import kernels
from detseg.kernels.roi_pooling import gather_patches
from detseg.modules import BalancedSampler, Matcher, RoIAlign, RoIPool, RoIPooler
from detseg.modules.roi_pooler import assign_levels
from detseg.modules.target_assignment import POSITIVE
from detseg.ops import boxes, linear, losses, masks, warping
from detseg.structures import IGNORE_INDEX, Instances
from tests.cuda.devices import DEVICES, no_waits, to
from tests.ops.drawn import random_boxes, random_maps
from tests.ops.test_nms import candidates

STRIDES = (8, 16)
WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def some_boxes(*shape: int) -> Tensor:
    return random_boxes(*shape, side=128, degenerate=0.1).double()


def some_maps() -> list[Tensor]:
    return [level.double() for level in random_maps(STRIDES)]


def some_labels() -> Tensor:
    labels = torch.randint(0, 4, (2, 6, 5))
    return torch.where(torch.rand(2, 6, 5) < 0.3, IGNORE_INDEX, labels)


def some_images() -> Tensor:
    return torch.randint(0, 256, (2, 3, 96, 128), dtype=torch.uint8)


def some_mask(*shape: int) -> Tensor:
    return torch.rand(shape) < 0.6


Case = Callable[[], tuple[Any, ...]]

CASES: dict[str, Case] = {
    "cxcywh_to_xyxy": lambda: (boxes.cxcywh_to_xyxy, some_boxes(2, 9)),
    "xyxy_to_cxcywh": lambda: (boxes.xyxy_to_cxcywh, some_boxes(2, 9)),
    "area": lambda: (boxes.area, some_boxes(2, 9)),
    "clip": lambda: (boxes.clip, some_boxes(2, 9), torch.tensor([[60, 100], [90, 50]])),
    "iou": lambda: (boxes.iou, some_boxes(2, 9), some_boxes(2, 7)),
    "encode": lambda: (boxes.encode, some_boxes(2, 9), some_boxes(2, 9), WEIGHTS),
    "decode": lambda: (boxes.decode, torch.randn(2, 9, 4).double(), some_boxes(2, 9), WEIGHTS),
    "constant": lambda: (boxes.constant, [1.0, 2.0, 3.0], torch.zeros(1).double()),
    "match": lambda: (match, boxes.iou(some_boxes(2, 5), some_boxes(2, 300)), some_mask(2, 5)),
    "nms": lambda: (boxes.nms, *candidates(), 0.5, 20),
    "kernels.nms": lambda: (kernels.nms, *candidates(), 0.5, 20),
    "kernels.nms of many": lambda: (kernels.nms, *candidates(3, 3000), 0.5, 1000),
    "kernels.nms of one": lambda: (kernels.nms, *candidates(2, 1), 0.5, 1),
    "kernels.nms of none": lambda: (kernels.nms, *candidates(2, 0), 0.5, 7),
    "assign_levels": lambda: (assign_levels, some_boxes(2, 50) * 8, (4, 8, 16, 32)),
    "roi_align": lambda: (plain_align, some_maps(), some_boxes(2, 30)),
    "roi_pool": lambda: (max_pool, some_maps(), some_boxes(2, 30)),
    "kernels.roi_align": lambda: (align, some_maps(), some_boxes(2, 30)),
    "gather_patches": lambda: (gather_patches, some_maps(), torch.randint(0, 16 * 32 + 8 * 16, (2, 40))),
    "bin_coverage": lambda: (masks.bin_coverage, torch.rand(5).double(), 3 + torch.rand(5).double(), 4, 6),
    "crop_and_resize_mean": lambda: (masks.crop_and_resize_mean, some_mask(4, 128, 128), some_boxes(4), 7),
    "mask_targets": lambda: (
        masks.mask_targets,
        torch.randint(0, 256, (4, 56, 56), dtype=torch.uint8),
        some_boxes(4),
        some_boxes(4),
        14,
    ),
    "warp": lambda: (
        warping.warp,
        some_images(),
        torch.tensor([[96, 128], [80, 100]]),
        some_boxes(6).float(),
        torch.randint(0, 2, (6,)),
        20,
        2,
        torch.tensor([10.0, 20, 30]).view(3, 1, 1),
    ),
    "semantic_loss": lambda: (losses.semantic_loss, torch.randn(2, 4, 6, 5).double(), some_labels(), torch.rand(4)),
    "focal_loss": lambda: (losses.focal_loss, torch.randn(2, 4, 6, 5).double(), some_labels()),
    "dice_loss": lambda: (losses.dice_loss, torch.randn(2, 4, 6, 5).double(), some_labels()),
    "median_frequency_weights": lambda: (losses.median_frequency_weights, torch.randint(0, 99, (7, 4))),
    "ridge": lambda: (linear.ridge, [(torch.randn(50, 6), torch.randn(50, 4))], 1.0),
    "ridge of few": lambda: (linear.ridge, [(torch.randn(5, 16), torch.randn(5, 4))], 1.0),
}
HOST_DECIDES = {"nms", "median_frequency_weights", "ridge", "ridge of few"}
"""Operations outside of training steps, whose results have as many elements or such values as the host must know."""


def match(iou: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Without the objects of candidates that are no positives, of which several may be equally near."""
    matched, labels = Matcher(0.5, 0.3, allow_low_quality_matches=True)(iou, valid)
    return torch.where(labels == POSITIVE, matched, -1), labels


def pool(pooler: RoIPooler, maps: list[Tensor], regions: Tensor) -> Tensor:
    valid = torch.ones(regions.shape[:2], dtype=torch.bool, device=regions.device)
    return pooler(maps, Instances(regions, valid), STRIDES, 7)


def align(maps: list[Tensor], regions: Tensor) -> Tensor:
    return pool(RoIAlign(), maps, regions)


def plain_align(maps: list[Tensor], regions: Tensor) -> Tensor:
    with kernels.use(fast=False):
        return align(maps, regions)


def max_pool(maps: list[Tensor], regions: Tensor) -> Tensor:
    return pool(RoIPool(), maps, regions)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("device", DEVICES)
def test_equals_the_cpu(device: str, name: str) -> None:
    torch.manual_seed(0)
    function, *arguments = CASES[name]()
    expected = function(*arguments)
    moved = to(arguments, device)
    result = function(*moved)
    tolerance = {"rtol": 0, "atol": 0.05} if name == "warp" else {}  # in single precision, of 255
    assert_close(to(result, "cpu"), expected, **tolerance)
    if name not in HOST_DECIDES:
        with no_waits(device):
            function(*moved)


@pytest.mark.parametrize("device", DEVICES)
def test_sampling_draws_as_many_of_each_kind(device: str) -> None:
    positive = torch.arange(100, device=device).expand(2, -1) < 30
    indices, valid = BalancedSampler(40, 0.25)(positive, ~positive, torch.rand(2, 100, device=device))
    assert valid.all()
    assert (positive.gather(1, indices).sum(dim=1) == 10).all()
    assert all(len(set(row)) == 40 for row in indices.tolist())


@pytest.mark.parametrize("pool", [align, plain_align, max_pool])
@pytest.mark.parametrize("device", DEVICES)
def test_gradients_of_regions_equal_those_of_the_cpu(device: str, pool: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    features, regions = [level.requires_grad_() for level in some_maps()], some_boxes(2, 60)
    weight = torch.randn(120, 3, 7, 7).double()
    expected = torch.autograd.grad((pool(features, regions) * weight).sum(), features)
    moved = [level.detach().to(device).requires_grad_() for level in features]
    pooled = pool(moved, regions.to(device))
    with no_waits(device):
        gradients = torch.autograd.grad((pooled * to(weight, device)).sum(), moved)
    assert_close(to(gradients, "cpu"), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_gradient_of_roi_align_is_deterministic(device: str) -> None:
    torch.manual_seed(0)
    features = [level.float().to(device).requires_grad_() for level in some_maps()]
    regions = some_boxes(2, 500).float().to(device)
    weight = torch.randn(1000, 3, 7, 7, device=device)
    torch.use_deterministic_algorithms(True)
    try:
        gradients = [torch.autograd.grad((align(features, regions) * weight).sum(), features) for _ in range(3)]
    finally:
        torch.use_deterministic_algorithms(False)
    for other in gradients[1:]:
        assert all(torch.equal(*pair) for pair in zip(gradients[0], other, strict=True))


@pytest.mark.parametrize("device", DEVICES)
def test_half_precision_pools_in_half_precision(device: str) -> None:
    torch.manual_seed(0)
    features, regions = [level.float().to(device) for level in some_maps()], some_boxes(2, 30).float().to(device)
    expected = align(features, regions)
    rough = align([level.bfloat16() for level in features], regions)
    assert_close(rough.float(), expected, rtol=0, atol=0.05)


@pytest.mark.cuda
def test_nms_of_tied_boxes_equals_the_plain_operator() -> None:
    """On the GPU both, more candidates than a training has."""
    torch.manual_seed(0)
    tied = (torch.rand(2, 9000, 2) * 50).round()
    arguments = to(
        (
            torch.cat([tied, tied + (torch.rand(2, 9000, 2) * 20).round()], dim=-1),
            (torch.rand(2, 9000) * 50).round() / 50,
            torch.randint(0, 5, (2, 9000)),
            torch.rand(2, 9000) < 0.9,
        ),
        "cuda",
    )
    assert_close(kernels.nms(*arguments, 0.5, 2000), boxes.nms(*arguments, 0.5, 2000), rtol=0, atol=0)


@pytest.mark.cuda
def test_nms_is_captured_in_a_cuda_graph() -> None:
    boxes, scores, groups, valid = to(candidates(2, 2000), "cuda")
    kernels.nms(boxes, scores, groups, valid, 0.5, 500)  # compiles the kernels
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = kernels.nms(boxes, scores, groups, valid, 0.5, 500)
    for seed in range(2):
        torch.manual_seed(seed)
        scores.copy_(torch.rand(2, 2000))
        graph.replay()
        assert_close(result, kernels.nms(boxes, scores, groups, valid, 0.5, 500), rtol=0, atol=0)
