"""Measure which way from polygons to the targets of a mask head is nearest to the truth.

    python tools/mask_targets.py my/folder --size 320

For each object with polygons and a region around it, as proposals are, the truth is the part of each of 28 x 28 cells
that the polygon covers, counted on 16 x 16 points a cell. The table has the mean absolute error of the targets; the IoU
with the truth, both from one half; and the IoU of the file's mask with the target pasted into the image, which is the
most that a head that learns this target could reach.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from comparison.arms import polygon_box_mask
from matplotlib.path import Path
from pycocotools import mask as coco
from torchvision.models.detection.roi_heads import project_masks_on_boxes
from torchvision.ops import roi_align

from detseg.data import DetectionDataModule
from detseg.ops.boxes import iou
from detseg.ops.masks import box_masks, mask_targets
from detseg.ops.rle import paste_mask
from detseg.resizing import fit

CELLS, POINTS = 28, 16  # along each side: of a target, and of a cell


def truth(polygons: list[np.ndarray], box: np.ndarray) -> np.ndarray:
    """Return the covered part (28, 28) of each cell of a box."""
    centres = (np.arange(CELLS * POINTS) + 0.5) / (CELLS * POINTS)
    x, y = np.meshgrid(box[0] + centres * (box[2] - box[0]), box[1] + centres * (box[3] - box[1]))
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    inside = np.any([Path(part.reshape(-1, 2)).contains_points(points) for part in polygons], axis=0)
    return inside.reshape(CELLS, POINTS, CELLS, POINTS).mean(axis=(1, 3))


def targets(
    polygons: list[np.ndarray], mask: np.ndarray, box: np.ndarray, region: np.ndarray, factors: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the targets (28, 28) of each way; boxes are in pixels of the file, and ``factors`` resize them."""
    at_file, box_in_file = torch.from_numpy(mask), torch.from_numpy(box).float()[None]
    resized, region_in_image = box_in_file * torch.tensor(factors), torch.from_numpy(region * factors).float()[None]
    grids, exact = box_masks([mask], box_in_file), torch.from_numpy(polygon_box_mask(polygons, box))[None]
    shape = [round(length * factor) for length, factor in zip(mask.shape, factors[1::-1].tolist(), strict=True)]
    whole = F.interpolate(at_file[None, None].float(), size=shape)[0]  # nearest, as torchvision resizes masks
    index = torch.tensor([0])
    rois = torch.cat([torch.zeros(1, 1), region_in_image], dim=1)
    side = (region[2:] - region[:2]).clip(0.1)
    parts = [((part.reshape(-1, 2) - region[:2]) / side * CELLS).ravel().tolist() for part in polygons]
    drawn = coco.decode(coco.merge(coco.frPyObjects(parts, CELLS, CELLS)))
    return {
        "detseg": mask_targets(grids, resized, region_in_image, CELLS)[0].numpy(),
        "torchvision": project_masks_on_boxes(whole, region_in_image, index, CELLS)[0].numpy(),
        "torchvision, aligned": roi_align(whole[None], rois, CELLS, aligned=True)[0, 0].numpy(),
        "detseg, 0 or 1": (mask_targets(grids, resized, region_in_image, CELLS)[0].numpy() >= 0.5).astype(np.float32),
        "polygons in box masks": mask_targets(exact, resized, region_in_image, CELLS)[0].numpy(),
        "detectron2 (polygons)": drawn.astype(np.float32),
    }


def mask_iou(first: np.ndarray, second: np.ndarray) -> float:
    """Return the IoU of two masks, 1 for two empty ones."""
    union = int((first | second).sum())
    return float((first & second).sum() / union) if union else 1.0


def objects(data: DetectionDataModule, size: int) -> Iterator[tuple[np.ndarray, dict[str, list[float]]]]:
    """Yield, of each object with polygons, its sides in the resized image and the figures of each way."""
    table, random = data.annotations("train"), np.random.default_rng(0)
    assert table.masks is not None
    for image in range(len(table)):
        rows = table.objects(image)
        height, width = table.sizes[image].tolist()
        factors = np.tile((fit(table.sizes[image][None], size, 2 * size)[0] / table.sizes[image])[::-1], 2)
        masks = table.masks.draw(np.arange(rows.start, rows.stop), height, width)
        for row, mask in zip(range(rows.start, rows.stop), masks, strict=True):
            polygons, box = table.masks.polygons(row), table.boxes[row].clip(0, (width, height, width, height))
            if not polygons or table.crowd[row]:
                continue
            region = box + random.normal(0, 0.08, 4) * np.tile(box[2:] - box[:2], 2)
            region = region.clip(0, (width, height, width, height))
            if iou(torch.tensor(box)[None], torch.tensor(region)[None])[0, 0] < 0.5:
                continue
            exact = truth(polygons, region)
            figures = {}
            for name, target in targets(polygons, mask, box, region, factors.astype(np.float32)).items():
                pasted = paste_mask(target, region, height, width).full_mask(height, width)
                inside = np.zeros_like(mask)
                left, top, right, bottom = np.rint(region).astype(int)
                inside[top:bottom, left:right] = mask[top:bottom, left:right]  # no head paints beyond its region
                errors = float(np.abs(target - exact).mean())
                figures[name] = [errors, mask_iou(target >= 0.5, exact >= 0.5), mask_iou(pasted, inside)]
            yield (box[2:] - box[:2]) * factors[:2], figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root")
    parser.add_argument("--format", default="auto")
    parser.add_argument("--size", type=int, default=320, help="short edge of the images in pixels")
    options = parser.parse_args()
    data = DetectionDataModule(options.root, options.format, {"val_fraction": 0.02}, masks="valid")
    groups: dict[str, list[dict[str, list[float]]]] = {"all": [], "below 32 pixels": []}
    for sides, figures in objects(data, options.size):
        groups["all"].append(figures)
        if sides.prod() < 32**2:
            groups["below 32 pixels"].append(figures)
    for group, found in groups.items():
        print(f"{group}: {len(found)} objects  mean absolute error, IoU with the truth, IoU when pasted")
        for name in found[0] if found else ():
            values = np.array([one[name] for one in found])
            error = values.std(axis=0, ddof=1) / len(values) ** 0.5
            print(
                f"  {name:22}"
                + "".join(f"  {mean:.4f} +- {e:.4f}" for mean, e in zip(values.mean(0), error, strict=True))
            )


if __name__ == "__main__":
    main()
