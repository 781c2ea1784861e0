from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torchvision.models.detection.roi_heads import maskrcnn_loss
from torchvision.ops import roi_align

from detseg.modules.mask_head import MaskHead
from detseg.ops.masks import box_masks, mask_targets
from detseg.structures import Instances
from tests.ops.drawn import blobs, regions_of


@pytest.mark.parametrize("knowledge", [0, 1, 3])
def test_loss_is_torchvisions_on_the_same_regions(knowledge: int) -> None:
    """To 1e-3, whether the logits know nothing or the truth; torchvision takes the middle of a pixel for its corner."""
    masks, boxes = blobs(40, 400, 500, smallest=16)
    random = torch.Generator().manual_seed(2)
    regions, labels = regions_of(boxes, random), torch.randint(0, 5, (40,), generator=random)
    whole = torch.from_numpy(masks)
    truth = roi_align(whole.float()[:, None], list(regions[:, None].unbind(0)), 28, aligned=True)
    logits = torch.randn(40, 5, 28, 28, generator=random) + knowledge * (2 * truth - 1)
    expected = maskrcnn_loss(logits, [regions - 0.5], [whole.to(torch.uint8)], [labels], [torch.arange(40)])
    valid = torch.ones(1, 40, dtype=torch.bool)
    head = MaskHead().build(4, 5, shares_conv5=False)
    ours = head.loss(
        logits[torch.arange(40), labels],
        Instances(regions[None], valid, labels[None]),
        Instances(boxes[None], valid, masks=box_masks(masks, boxes)[None]),
        torch.arange(40)[None],
    )
    assert abs(ours["loss_mask"] - expected) < 1e-3


def test_loss_of_padding_and_of_nothing() -> None:
    masks, boxes = blobs(3, 60, 80)
    head, logits = MaskHead().build(4, 5, shares_conv5=False), torch.randn(3, 28, 28, requires_grad=True)
    matched = torch.arange(3)[None]
    objects = Instances(boxes[None], torch.ones(1, 3, dtype=torch.bool), masks=box_masks(masks, boxes)[None])
    garbage = torch.where(torch.tensor([[False], [True], [False]]), torch.nan, boxes)
    loss = head.loss(logits, Instances(garbage[None], torch.tensor([[True, False, True]])), objects, matched)[
        "loss_mask"
    ]
    truth = mask_targets(objects.masks[0], boxes, boxes, 28)
    assert_close(loss, F.binary_cross_entropy_with_logits(logits[[0, 2]], truth[[0, 2]]))
    loss.backward()
    assert not logits.grad[1].any()
    nothing = Instances(garbage[None], torch.zeros(1, 3, dtype=torch.bool))
    assert head.loss(logits, nothing, objects, matched)["loss_mask"] == 0
    none = Instances(boxes[None, :0], torch.zeros(1, 0, dtype=torch.bool))
    assert head.loss(logits[:0], none, objects, matched[:, :0])["loss_mask"] == 0


def test_the_mask_of_a_class_alone_is_given() -> None:
    torch.manual_seed(0)
    head, x = MaskHead(1, channels=5).build(6, 3, shares_conv5=False), torch.randn(4, 6, 7, 7)
    labels = torch.tensor([2, 0, 1, 2])
    all_masks = head.mask_fcn_logits(F.relu(head.conv5_mask(F.relu(head.convs[0](x)))))
    expected = torch.stack([all_masks[row, label] for row, label in enumerate(labels)])
    found = head(x, labels)
    assert_close(found, expected)
    weight, parameters = torch.randn_like(found), list(head.parameters())
    gradients = torch.autograd.grad((expected * weight).sum(), parameters)
    for ours, gradient in zip(torch.autograd.grad((found * weight).sum(), parameters), gradients, strict=True):
        assert_close(ours, gradient, rtol=1e-4, atol=1e-5)
