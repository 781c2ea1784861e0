from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as coco
from torch.testing import assert_close
from torchvision.models.detection.roi_heads import project_masks_on_boxes
from torchvision.ops import roi_align

from detseg.data.annotations.masks import concat_masks, pack_polygons
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


def test_targets_are_nearer_to_the_polygon_than_those_of_the_peers() -> None:
    """Of ellipses in a file of 480 x 640 that is resized by 0.4; the truth is counted on 16 x 16 points a cell."""
    random, cells, scale = np.random.default_rng(0), 28, 0.4
    errors: dict[str, list[float]] = {"detseg": [], "torchvision": [], "detectron2": []}
    for _ in range(12):
        (x, y), (a, b) = random.uniform(120, 360, 2), random.uniform(20, 110, 2)
        angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
        polygon = np.stack([x + a * np.cos(angles), y + b * np.sin(angles)], axis=1)
        box = np.array([x - a, y - b, x + a, y + b])
        region = box + random.normal(0, 0.08, 4) * np.tile(box[2:] - box[:2], 2)
        left_top, sides = region[:2], region[2:] - region[:2]

        points = (np.arange(16 * cells) + 0.5) / (16 * cells)
        across, down = (left_top[0] + points * sides[0] - x) / a, (left_top[1] + points * sides[1] - y) / b
        inside = across**2 + down[:, None] ** 2 <= 1
        truth = inside.reshape(cells, 16, cells, 16).mean(axis=(1, 3))

        mask = next(concat_masks([(1, pack_polygons([polygon.ravel().tolist()]))]).draw(np.array([0]), 480, 640))
        in_image = torch.from_numpy(scale * region).float()[None]
        boxes = torch.from_numpy(box).float()[None]
        resized = F.interpolate(torch.from_numpy(mask)[None, None].float(), size=(192, 256))[0]  # as torchvision does
        parts = [((polygon - left_top) / sides * cells).ravel().tolist()]
        found = {
            "detseg": mask_targets(box_masks([mask], boxes), scale * boxes, in_image, cells)[0].numpy(),
            "torchvision": project_masks_on_boxes(resized, in_image, torch.tensor([0]), cells)[0].numpy(),
            "detectron2": coco.decode(coco.merge(coco.frPyObjects(parts, cells, cells))),  # its polygons
        }
        for name, target in found.items():
            errors[name].append(float(np.abs(target - truth).mean()))
    means = {name: float(np.mean(values)) for name, values in errors.items()}
    assert means["detseg"] < 0.004
    assert means["torchvision"] > 2 * means["detseg"]
    assert means["detectron2"] > 2 * means["detseg"]
