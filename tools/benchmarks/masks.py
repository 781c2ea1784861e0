"""Speed of masks: small ones to RLE, and those of files to what the mask head learns."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from pycocotools.mask import encode
from torch import Tensor
from torchvision.ops import roi_align

from detseg.data.annotations.masks import POLYGONS, concat_masks, pack_polygons
from detseg.ops.masks import BOX_MASK_SIZE, box_masks, mask_targets
from detseg.ops.rle import box_masks_to_rle

HEIGHT, WIDTH = 480, 640

Call = Callable[[], object]


def encoding(device: str, half: bool) -> dict[str, Call]:
    """RLE of 100 masks over boxes of 20 to 400 pixels."""
    random = torch.Generator().manual_seed(0)
    height, width = 800, 1333
    coarse = torch.randn(100, 1, 7, 7, generator=random)
    small = torch.sigmoid(3 * F.interpolate(coarse, size=28, mode="bicubic"))[:, 0]
    half = 10 + 190 * torch.rand(100, 2, generator=random)
    middle = torch.rand(100, 2, generator=random) * torch.tensor([width, height])
    limit = torch.tensor([width, height] * 2)
    boxes = torch.minimum(torch.cat([middle - half, middle + half], dim=1).clamp(min=0), limit)
    return {
        "detseg": lambda: list(box_masks_to_rle(small.numpy(), boxes.numpy(), height, width)),
        "detectron2's way": lambda: [
            encode(np.asfortranarray(pasted(mask, box, height, width).numpy()))
            for mask, box in zip(small, boxes, strict=True)
        ],
    }


def pasted(mask: Tensor, box: Tensor, height: int, width: int) -> Tensor:
    """The whole map (h, w) uint8 of a mask, sampled in the window of its box, as detectron2 pastes it on a CPU."""
    left, top = (box[:2].floor().int() - 1).clamp(min=0).tolist()
    right = min(int(box[2].ceil()) + 1, width)
    bottom = min(int(box[3].ceil()) + 1, height)
    x = (torch.arange(left, right) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
    y = (torch.arange(top, bottom) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
    grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=-1)
    values = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
    whole = torch.zeros(height, width, dtype=torch.uint8)
    whole[top:bottom, left:right] = values >= 0.5
    return whole


def targets(device: str, half: bool) -> dict[str, Call]:
    """From the masks of a batch to what the mask head should say of its regions."""
    random = np.random.default_rng(0)
    images, objects, regions = 16, 7, 128
    angles = np.linspace(0, 2 * np.pi, 28)[:-1]
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * random.uniform(0.7, 1, (images, objects, 27, 1))
    radius = np.exp(random.uniform(np.log(8), np.log(150), (images, objects, 1, 2)))
    polygons = (corners * radius + random.uniform(0, (WIDTH, HEIGHT), radius.shape)).clip(0, (WIDTH, HEIGHT))
    packed = concat_masks([(POLYGONS, pack_polygons([one.ravel().tolist()])) for one in polygons.reshape(-1, 27, 2)])
    rows = np.arange(images * objects).reshape(images, objects)
    drawn = [np.stack([*packed.draw(row, HEIGHT, WIDTH)]) for row in rows]
    boxes = torch.from_numpy(np.concatenate([polygons.min(axis=2), polygons.max(axis=2) + 1e-3], axis=2)).float()
    scale = torch.tensor([1067 / WIDTH, 800 / HEIGHT] * 2)
    of = torch.arange(regions) % objects
    own = (boxes * scale)[:, of]
    sides = (own[..., 2:] - own[..., :2]).repeat(1, 1, 2)
    torch.manual_seed(0)
    drawn_regions = own + sides * (0.4 * torch.rand(own.shape) - 0.2)

    def over_boxes() -> Tensor:
        small = torch.stack([box_masks(masks, row) for masks, row in zip(drawn, boxes, strict=True)])
        return mask_targets(small[:, of], own, drawn_regions, 28)

    def whole() -> Tensor:
        found = []
        for masks, row in zip(drawn, drawn_regions, strict=True):
            flat = [
                cv2.resize(mask.view(np.uint8), (1067, 800), interpolation=cv2.INTER_NEAREST_EXACT) for mask in masks
            ]
            maps, numbered = torch.from_numpy(np.stack(flat)).float(), torch.cat([of[:, None].float(), row], dim=1)
            found.append(roi_align(maps[:, None], numbered, 28, aligned=True)[:, 0])
        return torch.stack(found)

    for knowledge in (0, 1, 3):
        truth = whole()
        logits = torch.randn(truth.shape) + knowledge * (2 * truth - 1)
        ours, theirs = (F.binary_cross_entropy_with_logits(logits, values) for values in (over_boxes(), truth))
        print(f"loss of logits N(0, 1) + {knowledge} x truth: {ours:.4f}, of whole maps {theirs:.4f}")
    room = images * 8 / 2**20  # objects are padded to a power of two
    print(
        f"memory: grids {room * BOX_MASK_SIZE**2:.0f} MiB, whole maps {room * 800 * 1088:.0f} MiB, "
        f"polygons {packed.data.nbytes / 1024:.0f} KiB"
    )
    return {"detseg": over_boxes, "whole maps": whole}
