from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close
from torchvision.models.detection.roi_heads import maskrcnn_loss
from torchvision.ops import roi_align

from detseg.modules.mask_head import MaskHead
from detseg.ops.losses import mask_loss
from detseg.ops.masks import average, grids, mask_targets, shares
from detseg.structures import Instances
from tests.ops.drawn import blobs


@pytest.mark.parametrize(("start", "stop"), [(0.0, 6.0), (1.3, 4.9), (-2.0, 3.5), (4.0, 9.0), (2.25, 2.5)])
def test_shares_are_those_of_many_points(start: float, stop: float) -> None:
    points = start + (stop - start) * (torch.arange(60000) + 0.5) / 60000
    expected = torch.stack(
        [F.one_hot(cell.floor().long().clamp(-1, 6) + 1, 8).float().mean(0) for cell in points.chunk(3)]
    )
    assert_close(shares(torch.tensor(start), torch.tensor(stop), 3, 6), expected[:, 1:7], rtol=0, atol=1e-3)


def test_average_of_whole_pixels() -> None:
    image = torch.rand(8, 12, generator=torch.Generator().manual_seed(0))
    found = average(image, torch.tensor([2.0, 0, 10, 8]), 4)
    assert_close(found, image[:, 2:10].reshape(4, 2, 4, 2).mean(dim=(1, 3)))


def test_a_grid_holds_the_mask_of_its_box() -> None:
    mask = np.zeros((1, 40, 50), dtype=bool)
    mask[0, 10:20, 5:25] = True
    found = grids(mask, torch.tensor([[5.0, 10, 45, 20]]), 8)
    assert found.dtype == torch.uint8
    assert torch.equal(found[0, :, :4], torch.full((8, 4), 255, dtype=torch.uint8))
    assert not found[0, :, 4:].any()
    assert grids(np.zeros((0, 40, 50), dtype=bool), torch.zeros(0, 4)).shape == (0, 224, 224)


def regions_of(boxes: Tensor, random: torch.Generator) -> Tensor:
    """Boxes off by up to a fifth of their sides."""
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return boxes + sides * (0.4 * torch.rand(boxes.shape, generator=random) - 0.2)


def test_targets_are_those_of_roi_align_on_the_whole_masks() -> None:
    masks, boxes = blobs(20, 200, 300)
    regions = regions_of(boxes, torch.Generator().manual_seed(1)).clamp(min=0)
    found = mask_targets(grids(masks, boxes), boxes, regions, 28)
    whole = torch.from_numpy(masks).float()[:, None]
    expected = roi_align(whole, list(regions[:, None].unbind(0)), 28, aligned=True)[:, 0]
    assert (found - expected).abs().mean() < 0.01
    assert found.min() >= 0
    assert found.max() < 1 + 1e-5


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
    ours = MaskHead(4, 5).loss(
        logits[torch.arange(40), labels],
        Instances(regions[None], valid, labels[None]),
        Instances(boxes[None], valid, masks=grids(masks, boxes)[None]),
        torch.arange(40)[None],
    )
    assert abs(ours["mask"] - expected) < 1e-3


def test_loss_of_padding_and_of_nothing() -> None:
    logits = torch.randn(3, 4, 4, requires_grad=True)
    targets = torch.rand(3, 4, 4)
    targets[1] = torch.nan
    positive = torch.tensor([True, False, True])
    loss = mask_loss(logits, targets, positive)
    assert_close(loss, F.binary_cross_entropy_with_logits(logits[positive], targets[positive]))
    loss.backward()
    assert not logits.grad[1].any()
    assert mask_loss(logits, targets, torch.zeros(3, dtype=torch.bool)) == 0
    assert mask_loss(logits[:0], targets[:0], positive[:0]) == 0


def test_the_mask_of_a_class_alone_is_given() -> None:
    torch.manual_seed(0)
    head, x = MaskHead(6, 3, convs=1, channels=5), torch.randn(4, 6, 7, 7)
    labels = torch.tensor([2, 0, 1, 2])
    all_masks = head.logits(F.relu(head.deconv(F.relu(head.convs[0](x)))))
    assert_close(head(x, labels), torch.stack([all_masks[row, label] for row, label in enumerate(labels)]))
