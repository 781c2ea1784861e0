"""A data set in which a colour is a class, and a detector that needs to learn nothing to find it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from detseg.data import COCO, Resize
from detseg.models import Detector
from detseg.structures import Batch, Instances

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
IDS = {"red": 3, "green": 7, "blue": 20}  # of the data set: with gaps, and not from 0
SIDE = 64


def write_colours(root: Path, train: int = 4, val: int = 3, empty: int = 0, side: int = SIDE) -> Path:
    """Write images with one rectangle of each of some colours, in COCO format; the last ``empty`` of val have none."""
    generator = np.random.default_rng(0)
    for split, count, without in (("train", train, 0), ("val", val, empty)):
        images, annotations = [], []
        for number in range(count):
            image = np.zeros((side, side, 3), np.uint8)
            shown = [] if number >= count - without else [*COLOURS][: 1 + number % 3] if split == "val" else [*COLOURS]
            for row, name in enumerate(shown):
                y = row * side // 3 + int(generator.integers(1, 4))
                x, width = int(generator.integers(2, side // 2)), int(generator.integers(12, side // 2 - 2))
                height = side // 3 - 6
                image[y : y + height, x : x + width] = COLOURS[name]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": 100 + number,
                        "category_id": IDS[name],
                        "bbox": [x, y, width, height],
                        "area": width * height,
                        "iscrowd": 0,
                        "segmentation": [[x, y, x + width, y, x + width, y + height, x, y + height]],
                    }
                )
            images.append({"id": 100 + number, "file_name": f"{split}{number}.png", "height": side, "width": side})
            (root / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / split / f"{split}{number}.png")
        categories = [{"id": number, "name": name} for name, number in IDS.items()]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def write_classes(root: Path, train: int = 4, val: int = 2, side: int = 48) -> Path:
    """Write images of one colour with some noise, in a folder for each colour."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                noise = generator.integers(0, 60, (side, side + 8, 3))
                image = (np.array(colour) * 0.7 + noise).astype(np.uint8)
                Image.fromarray(image).save(root / split / name / f"{number}.png")
    return root


def colours(root: Path, **arguments: Any) -> COCO:
    """The data module of what ``write_colours`` wrote."""
    return COCO(str(root), **{"transforms": [Resize(SIDE, SIDE)], "num_workers": 0, **arguments})


class ColourDetector(Detector):
    """Finds the rectangle of each colour; its right edge is ``blunder`` x (1 + left edge modulo 5) pixels off."""

    def __init__(self, num_classes: int = 3, blunder: float = 0.0, losses: float = 1.0) -> None:
        super().__init__()
        self.num_classes, self.blunder, self.losses = num_classes, blunder, losses
        self.weight = nn.Parameter(torch.zeros(3))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        target = batch.images.float().mean(dim=(2, 3)) / 255
        return {
            "colour": ((self.weight - target) ** 2).sum(dim=1).mean() * self.losses,
            "constant": 0 * self.weight.sum() + 2.0,
        }

    def forward(self, images: Tensor, sizes: Tensor, proposals: Instances | None = None) -> Instances:
        boxes = torch.zeros(len(images), 3, 4)
        valid = torch.zeros(len(images), 3, dtype=torch.bool)
        for label, colour in enumerate(COLOURS.values()):
            bright = torch.tensor(colour).view(3, 1, 1) > 0
            for row, found in enumerate(((images > 128) == bright).all(dim=1)):
                y, x = found.nonzero(as_tuple=True)
                if len(x):
                    corners = [x.min(), y.min(), x.max() + 1 + self.blunder * (1 + x.min() % 5), y.max() + 1]
                    boxes[row, label], valid[row, label] = torch.stack([c.float() for c in corners]), True
        scores = 0.5 + (boxes[..., 2] - boxes[..., 0]) / images.shape[3] / 2
        return Instances(boxes, valid, torch.arange(3).expand(len(images), 3), scores)


class ColourMaskDetector(ColourDetector):
    """Says of the rectangles that it finds that they fill their boxes."""

    needs_masks = True

    def forward(self, images: Tensor, sizes: Tensor, proposals: Instances | None = None) -> Instances:
        found = super().forward(images, sizes, proposals)
        return found._replace(masks=torch.ones(*found.valid.shape, 28, 28))
