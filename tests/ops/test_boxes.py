from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision.ops as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from torchvision.models.detection._utils import BoxCoder

from detseg.ops import boxes as box_ops
from tests.ops.drawn import lattice_boxes, random_boxes

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
CONVERSIONS = [
    (box_ops.cxcywh_to_xyxy, "cxcywh", "xyxy"),
    (box_ops.xyxy_to_cxcywh, "xyxy", "cxcywh"),
]

few = settings(deadline=None, max_examples=60)


def with_area(boxes: Tensor) -> Tensor:
    return boxes[((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1)]


def test_area() -> None:
    boxes = random_boxes(50)
    assert_close(box_ops.area(boxes), reference.box_area(boxes))


def test_swapped_corners_have_no_area() -> None:
    assert box_ops.area(torch.tensor([[5, 5, 1, 9], [5, 5, 1, 1]])).tolist() == [0, 0]


@few
@given(lattice_boxes(), lattice_boxes())
def test_overlap_of_every_pair(a, b) -> None:
    a, b = with_area(a), with_area(b)
    assert_close(box_ops.iou(a, b), reference.box_iou(a, b))


@few
@given(lattice_boxes(), lattice_boxes())
def test_overlap_without_area_is_finite(a, b) -> None:
    assert box_ops.iou(a, b).isfinite().all()


def test_a_point_overlaps_nothing() -> None:
    point = torch.tensor([[3.0, 3, 3, 3]])
    assert box_ops.iou(point, torch.tensor([[0.0, 0, 9, 9], [3, 3, 3, 3]])).tolist() == [[0, 0]]


def test_boxes_that_only_touch_do_not_overlap() -> None:
    assert box_ops.iou(torch.tensor([[0, 0, 2, 2]]), torch.tensor([[2, 0, 4, 2]])).item() == 0


def test_overlap_lies_between_0_and_1() -> None:
    overlap = box_ops.iou(random_boxes(40), random_boxes(40))
    assert overlap.max() <= 1
    assert overlap.min() >= 0
    assert_close(box_ops.iou(boxes := random_boxes(40), boxes).diagonal(), torch.ones(40))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.float16, torch.bfloat16])
def test_overlap_in_other_types(dtype) -> None:
    """Coordinates that every type holds, areas that half precision and a byte do not."""
    a = torch.tensor([[0, 0, 240, 240], [16, 32, 200, 128]])
    b = torch.tensor([[0, 0, 240, 120], [128, 32, 200, 240], [0, 0, 8, 8]])
    overlap = box_ops.iou(a.to(dtype), b.to(dtype))
    assert overlap.dtype == torch.float32
    assert_close(overlap, reference.box_iou(a.float(), b.float()))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16])
def test_area_does_not_overflow_in_other_types(dtype) -> None:
    assert box_ops.area(torch.tensor([[0, 0, 1000, 1000]], dtype=dtype)).item() == 1e6


def test_double_precision_is_kept() -> None:
    assert box_ops.iou(random_boxes(2).double(), random_boxes(3).double()).dtype == torch.float64


def test_overlap_of_many_images_at_once() -> None:
    a, b = random_boxes(2, 3, 5), random_boxes(2, 3, 4)
    overlap = box_ops.iou(a, b)
    for image in range(2):
        for crop in range(3):
            assert_close(overlap[image, crop], reference.box_iou(a[image, crop], b[image, crop]))


def test_one_set_of_anchors_serves_all_images() -> None:
    a, anchors = random_boxes(3, 5), random_boxes(4)
    assert_close(box_ops.iou(a, anchors), box_ops.iou(a, anchors.expand(3, -1, -1)))


def test_overlap_with_nothing() -> None:
    assert box_ops.iou(torch.zeros(2, 0, 4), torch.zeros(2, 3, 4)).shape == (2, 0, 3)
    assert box_ops.iou(torch.zeros(2, 3, 4), torch.zeros(2, 0, 4)).shape == (2, 3, 0)
    assert box_ops.iou(torch.zeros(0, 3, 4), torch.zeros(0, 5, 4)).shape == (0, 3, 5)


@pytest.mark.parametrize(("ours", "source", "target"), CONVERSIONS)
@pytest.mark.parametrize("shape", [(7,), (2, 3, 5), (0,), (2, 0)])
def test_conversion(ours, source, target, shape) -> None:
    boxes = random_boxes(*shape)
    assert_close(ours(boxes), reference.box_convert(boxes, source, target))


def test_conversion_of_whole_numbers_loses_no_half_pixel() -> None:
    boxes = torch.tensor([[1, 2, 4, 9]])
    assert torch.equal(box_ops.cxcywh_to_xyxy(box_ops.xyxy_to_cxcywh(boxes)).long(), boxes)


def test_clip() -> None:
    boxes = random_boxes(3, 20, side=200) - 50
    sizes = torch.tensor([(100, 60), (60, 100), (200, 1)])
    for ours, image, size in zip(box_ops.clip(boxes, sizes), boxes, sizes.tolist(), strict=True):
        assert_close(ours, reference.clip_boxes_to_image(image, size))


def test_clip_of_nothing() -> None:
    assert box_ops.clip(torch.zeros(2, 0, 4), torch.ones(2, 2)).shape == (2, 0, 4)


def test_clip_keeps_the_type() -> None:
    clipped = box_ops.clip(torch.tensor([[[-3, 4, 50, 60]]]), torch.tensor([[20, 30]]))
    assert clipped.dtype == torch.int64
    assert clipped.tolist() == [[[0, 4, 30, 20]]]


def test_encode() -> None:
    boxes, references = random_boxes(50) + torch.tensor([0.0, 0, 1, 1]), random_boxes(50) + torch.tensor([0.0, 0, 1, 1])
    assert_close(box_ops.encode(boxes, references, WEIGHTS), BoxCoder(WEIGHTS).encode_single(boxes, references))


def test_decode() -> None:
    deltas, references = 3 * torch.randn(50, 4), random_boxes(50)
    expected = BoxCoder(WEIGHTS).decode_single(deltas, references)
    assert_close(box_ops.decode(deltas, references, WEIGHTS), expected, rtol=1e-5, atol=1e-4)


def test_decode_bounds_growth() -> None:
    """R-CNN's bound: an untrained network may make a box of 16 pixels 1000 pixels wide, but not wider."""
    references = torch.tensor([[0.0, 0, 16, 16]])
    deltas = torch.tensor([[0, 0, 100, math.log(1000 / 16) - 0.1]])
    width, height = (box_ops.decode(deltas, references, (1, 1, 1, 1))[0, 2:] * 2 - 16).tolist()
    assert width == pytest.approx(1000, rel=1e-5)
    assert height == pytest.approx(1000 * math.exp(-0.1), rel=1e-5)


@few
@given(st.integers(0, 2**31))
def test_decode_inverts_encode(seed) -> None:
    torch.manual_seed(seed)
    boxes, references = (random_boxes(2, 9) + torch.tensor([0.0, 0, 5, 5]) for _ in range(2))
    decoded = box_ops.decode(box_ops.encode(boxes, references, WEIGHTS), references, WEIGHTS)
    assert_close(decoded, boxes, rtol=1e-4, atol=1e-3)


@few
@given(lattice_boxes(most=8))
def test_encode_and_decode_without_area_are_finite(boxes) -> None:
    references = boxes.flip(0)
    deltas = box_ops.encode(boxes, references, WEIGHTS)
    assert deltas.isfinite().all()
    assert box_ops.decode(deltas, references, WEIGHTS).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16])
def test_encode_and_decode_in_other_types(dtype) -> None:
    boxes, references = torch.tensor([[0, 0, 500, 300]]), torch.tensor([[40, 20, 440, 400]])
    deltas = box_ops.encode(boxes.to(dtype), references.to(dtype), WEIGHTS)
    assert_close(deltas, BoxCoder(WEIGHTS).encode_single(boxes.float(), references.float()))
    assert_close(box_ops.decode(deltas, references.to(dtype), WEIGHTS), boxes.float(), rtol=0, atol=1e-3)


def test_encode_and_decode_nothing() -> None:
    assert box_ops.encode(torch.zeros(2, 0, 4), torch.zeros(2, 0, 4), WEIGHTS).shape == (2, 0, 4)
    assert box_ops.decode(torch.zeros(0, 4), torch.zeros(0, 4), WEIGHTS).shape == (0, 4)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("ours", "source", "target"), CONVERSIONS)
def test_conversion_in_other_types(ours, source, target, dtype) -> None:
    """Neither sum nor difference is one that every type holds."""
    boxes = torch.tensor([[200, 120, 100, 240], [8, 16, 240, 24]]).to(dtype)
    converted = ours(boxes)
    assert converted.dtype == torch.float32
    assert_close(converted, reference.box_convert(boxes.float(), source, target))


def test_conversion_does_not_overflow_in_half_precision() -> None:
    boxes = torch.tensor([[40000, 0, 40000, 8]], dtype=torch.float16)
    assert box_ops.cxcywh_to_xyxy(boxes).tolist() == [[20000, -4, 60000, 4]]


VALID = torch.tensor([True, False, True, True, False, True])
NOTHING = torch.zeros(6, dtype=torch.bool)
GARBAGE = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e30])


def slots() -> Tensor:
    torch.manual_seed(0)
    return (3 * torch.randn(6, 4)).requires_grad_()


def test_delta_loss_is_the_sum_over_the_positive_divided_by_all_samples() -> None:
    deltas, targets = slots(), slots().detach().flip(0)
    expected = F.smooth_l1_loss(deltas[VALID], targets[VALID], beta=1 / 9, reduction="sum") / 30
    assert_close(box_ops.delta_loss(deltas, targets, VALID, torch.tensor(30)), expected)


def test_delta_loss_has_the_original_bend() -> None:
    """py-faster-rcnn with sigma = 3: 0.5 * 9 * x ** 2 below 1 / 9, |x| - 0.5 / 9 above."""
    deltas = torch.tensor([[0.1, 0, 0, 0], [0, 2, 0, 0]])
    loss = box_ops.delta_loss(deltas, torch.zeros(2, 4), torch.ones(2, dtype=torch.bool), torch.tensor(1))
    assert loss.item() == pytest.approx(0.5 * 9 * 0.01 + 2 - 0.5 / 9)


def test_delta_loss_of_nothing_is_zero_and_has_a_gradient_of_zero() -> None:
    deltas = slots()
    loss = box_ops.delta_loss(deltas, GARBAGE.expand(6, 4), NOTHING, NOTHING.sum())
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(deltas.grad, torch.zeros_like(deltas))


def test_targets_of_padding_are_not_read() -> None:
    deltas, targets = slots(), slots().detach().flip(0)
    box_ops.delta_loss(deltas, targets, VALID, VALID.sum()).backward()
    clean, deltas.grad = deltas.grad, None
    loss = box_ops.delta_loss(deltas, torch.where(VALID[:, None], targets, GARBAGE), VALID, VALID.sum())
    loss.backward()
    assert loss.isfinite()
    assert torch.equal(deltas.grad, clean)
