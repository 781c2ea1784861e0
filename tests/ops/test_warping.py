from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from detseg.ops.warping import warp

FILL = torch.tensor([100.0, 110.0, 120.0]).view(3, 1, 1)
SIZES = torch.tensor([[40, 48], [30, 21]])


@pytest.fixture
def images() -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, 40, 48), generator=random, dtype=torch.uint8)


def one_by_one(images, sizes, boxes, rows, size, context, fill) -> np.ndarray:
    """Pixel by pixel: where its centre lies, and the four nearest pixels there."""
    result = np.zeros((len(boxes), 3, size, size))
    for region, (box, row) in enumerate(zip(boxes.double().tolist(), rows.tolist(), strict=True)):
        (height, width), image = sizes[row].tolist(), images[row].double().numpy()
        x1, y1, x2, y2 = box
        for i in range(size):
            for j in range(size):
                y = y1 + (y2 - y1) * (i + 0.5 - context) / (size - 2 * context)
                x = x1 + (x2 - x1) * (j + 0.5 - context) / (size - 2 * context)
                if not (0 <= y <= height and 0 <= x <= width):
                    result[region, :, i, j] = fill.flatten().numpy()
                    continue
                y, x = (min(max(v - 0.5, 0), limit - 1) for v, limit in ((y, height), (x, width)))
                for dy in (0, 1):
                    for dx in (0, 1):
                        weight = abs(1 - dy - y % 1) * abs(1 - dx - x % 1)
                        pixel = image[:, min(int(y) + dy, height - 1), min(int(x) + dx, width - 1)]
                        result[region, :, i, j] += weight * pixel
    return result


@pytest.mark.parametrize(("size", "context"), [(9, 2), (16, 0), (40, 7)])
def test_equals_a_loop(images, size, context) -> None:
    boxes = torch.tensor(
        [[3.0, 4, 30, 20], [0, 0, 48, 40], [40.3, 31.7, 47.9, 39.2], [2.5, 3.5, 3.5, 4.5], [0.3, 5.1, 20.9, 29.9]]
    )
    rows = torch.tensor([0, 0, 0, 1, 1])
    expected = one_by_one(images, SIZES, boxes, rows, size, context, FILL)
    found = warp(images, SIZES, boxes, rows, size, context, FILL)
    assert_close(found.numpy(), expected, rtol=0, atol=2e-3, check_dtype=False)


def test_a_whole_image_is_resized_as_torch_does(images) -> None:
    box, row = torch.tensor([[0.0, 0, 48, 40]]), torch.tensor([0])
    expected = F.interpolate(images[:1].float(), (27, 27), mode="bilinear", align_corners=False, antialias=False)
    assert_close(warp(images, SIZES, box, row, 27, 0, FILL), expected, rtol=0, atol=1e-3)


def test_the_paper_s_context() -> None:
    """16 pixels of 227 at each edge, of the image or of the mean; the box fills 195 (appendix A)."""
    image = torch.zeros(1, 3, 100, 100, dtype=torch.uint8)
    image[0, :, 0:50, 30:80] = 255  # the box, at the upper edge of the image
    crop = warp(image, torch.tensor([[100, 100]]), torch.tensor([[30.0, 0, 80, 50]]), torch.tensor([0]), 227, 16, FILL)
    colours = crop[0].round().to(torch.int64)
    assert (colours[:, :16] == FILL.long()).all()
    assert (colours[:, 16:209, 18:209] == 255).all()
    assert not colours[:, 16:, :14].any()
    assert not colours[:, 213:].any()


def test_nothing_outside_of_the_sizes_is_read(images) -> None:
    boxes, rows = torch.tensor([[0.0, 0, 21, 30], [10, 10, 21, 30]]), torch.tensor([1, 1])
    other = images.clone()
    other[1, :, 30:], other[1, :, :, 21:], other[0] = 255, 255, 255
    assert torch.equal(*(warp(each, SIZES, boxes, rows, 64, 8, FILL) for each in (images, other)))


def test_no_region_and_regions_without_area(images) -> None:
    nothing = warp(images, SIZES, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 9, 2, FILL)
    assert nothing.shape == (0, 3, 9, 9)
    point = warp(images, SIZES, torch.tensor([[5.5, 6.5, 5.5, 6.5]]), torch.tensor([0]), 9, 2, FILL)
    assert_close(point[0], images[0, :, 6, 5].float()[:, None, None].expand(3, 9, 9), rtol=0, atol=1e-3)
