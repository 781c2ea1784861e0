"""RoIAlign and patches by table lookup; tests/modules/test_roi_pooler.py holds RoIAlign against torchvision."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from detseg.kernels import gather_patches
from tests.modules.test_roi_pooler import STRIDES, awkward_boxes, fast_roi_align
from tests.ops.drawn import random_maps


def test_gradient_is_deterministic() -> None:
    """Boxes that share pixels, so that the order of the sum matters; PyTorch raises for nondeterministic operations."""
    features = [feature.requires_grad_() for feature in random_maps(STRIDES)]
    boxes = torch.cat([awkward_boxes()] * 8, dim=1)
    weight = torch.randn(2 * boxes.shape[1], 3, 7, 7)
    gradients = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(3):
            pooled = fast_roi_align(features, boxes, STRIDES, 7)
            gradients.append(torch.autograd.grad((pooled * weight).sum(), features))
    finally:
        torch.use_deterministic_algorithms(False)
    assert gradients[0][0].any()
    assert all(torch.equal(*pair) for again in gradients[1:] for pair in zip(gradients[0], again, strict=True))


def test_patches_are_those_of_unfold() -> None:
    """All cells of all maps, in the order of ``F.unfold``."""
    features = [torch.randn(2, 3, 4, 6), torch.randn(2, 3, 2, 3), torch.randn(2, 3, 1, 1)]
    expected = torch.cat([F.unfold(feature, 3, padding=1) for feature in features], dim=2)
    cells = torch.arange(24 + 6 + 1).expand(2, -1)
    around = gather_patches(features, cells)
    assert torch.equal(around.reshape(2, 31, 27), expected.transpose(1, 2))
