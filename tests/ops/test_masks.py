from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torchvision.ops import roi_align

from detseg.ops.masks import bin_coverage, box_masks, crop_and_resize_mean, mask_targets
from tests.ops.drawn import blobs, regions_of


@pytest.mark.parametrize(("start", "stop"), [(0.0, 6.0), (1.3, 4.9), (-2.0, 3.5), (4.0, 9.0), (2.25, 2.5)])
def test_shares_are_those_of_many_points(start: float, stop: float) -> None:
    points = start + (stop - start) * (torch.arange(60000) + 0.5) / 60000
    expected = torch.stack(
        [F.one_hot(cell.floor().long().clamp(-1, 6) + 1, 8).float().mean(0) for cell in points.chunk(3)]
    )
    assert_close(bin_coverage(torch.tensor(start), torch.tensor(stop), 3, 6), expected[:, 1:7], rtol=0, atol=1e-3)


def test_average_of_whole_pixels() -> None:
    image = torch.rand(8, 12, generator=torch.Generator().manual_seed(0))
    found = crop_and_resize_mean(image, torch.tensor([2.0, 0, 10, 8]), 4)
    assert_close(found, image[:, 2:10].reshape(4, 2, 4, 2).mean(dim=(1, 3)))


def test_a_grid_holds_the_mask_of_its_box() -> None:
    mask = np.zeros((1, 40, 50), dtype=bool)
    mask[0, 10:20, 5:25] = True
    found = box_masks(mask, torch.tensor([[5.0, 10, 45, 20]]), 8)
    assert found.dtype == torch.uint8
    assert torch.equal(found[0, :, :4], torch.full((8, 4), 255, dtype=torch.uint8))
    assert not found[0, :, 4:].any()
    assert box_masks(np.zeros((0, 40, 50), dtype=bool), torch.zeros(0, 4)).shape == (0, 224, 224)


def test_targets_are_those_of_roi_align_on_the_whole_masks() -> None:
    masks, boxes = blobs(20, 200, 300)
    regions = regions_of(boxes, torch.Generator().manual_seed(1)).clamp(min=0)
    found = mask_targets(box_masks(masks, boxes), boxes, regions, 28)
    whole = torch.from_numpy(masks).float()[:, None]
    expected = roi_align(whole, list(regions[:, None].unbind(0)), 28, aligned=True)[:, 0]
    assert (found - expected).abs().mean() < 0.01
    assert found.min() >= 0
    assert found.max() < 1 + 1e-5
