"""Speed of average precision."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import faster_coco_eval
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models.detection.roi_heads import paste_masks_in_image

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.masks import POLYGONS, Masks, concat_masks, pack_polygons
from detseg.metrics import CocoAP, Detections, annotation_targets, coco_results
from detseg.structures import Instances

HEIGHT, WIDTH = 480, 640

Call = Callable[[], object]


def evaluate(device: str, half: bool) -> dict[str, Call]:
    """COCO's figures of a data set as large as val2017: 5,000 images, 500,000 detections.

    Each starts with the dictionaries or tensors that it takes, which are made beforehand.
    """
    annotations, found = evaluation_case()
    places = np.repeat(annotations.image_ids, np.diff(annotations.offsets))
    sides = annotations.boxes[:, 2:] - annotations.boxes[:, :2]
    columns = {
        "id": annotations.ids,
        "image_id": places,
        "category_id": annotations.labels + 1,
        "bbox": np.concatenate([annotations.boxes[:, :2], sides], axis=1),
        "area": annotations.areas,
        "iscrowd": annotations.crowd.astype(np.int64),
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    truth = {
        "images": [{"id": number} for number in annotations.image_ids.tolist()],
        "categories": [{"id": number} for number in annotations.category_ids],
        "annotations": [dict(zip(columns, row, strict=True)) for row in rows],
    }
    results = coco_results(annotations, found)

    def peer(index: type, evaluation: type) -> Call:
        def run() -> object:
            with contextlib.redirect_stdout(io.StringIO()):
                objects = index()
                objects.dataset = truth
                objects.createIndex()
                run = evaluation(objects, objects.loadRes(results), "bbox")
                run.evaluate()
                run.accumulate()
                run.summarize()
            return run.stats[:12]

        return run

    preds = Instances(
        torch.from_numpy(found.boxes).view(len(annotations), -1, 4),
        torch.ones(len(annotations), len(found.labels) // len(annotations), dtype=torch.bool),
        torch.from_numpy(found.labels).view(len(annotations), -1),
        torch.from_numpy(found.scores).view(len(annotations), -1),
    )
    targets = annotation_targets(annotations, range(len(annotations)))

    def ours() -> object:
        metric = CocoAP(annotations.classes)
        metric.update(preds, targets)
        return metric.compute()

    return {
        "detseg": ours,
        "faster-coco-eval": peer(faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster),
    }


def mask_evaluation(device: str, half: bool) -> dict[str, Call]:
    """COCO's figures of the masks of 500 images and 50,000 detections, from the 28 x 28 cells that a network gives.

    The truth is made beforehand: ours outlines, torchmetrics' drawn masks. It leaves out images without objects, so the
    figures differ a little.
    """
    annotations, found = evaluation_case(500)
    annotations = replace(annotations, masks=outlines(annotations.boxes))
    random = torch.Generator().manual_seed(0)
    cells = (torch.arange(28) + 0.5) / 14 - 1
    disc = 4 * (1 - cells.square() - cells[:, None].square())
    noise = torch.randn(len(found.labels), 1, 4, 4, generator=random)
    masks = torch.sigmoid(disc + F.interpolate(noise, size=28, mode="bicubic")[:, 0]).view(500, 100, 28, 28)
    boxes = torch.from_numpy(found.boxes).float().view(500, 100, 4)
    labels, scores = (torch.from_numpy(column).view(500, 100) for column in (found.labels, found.scores))
    detections = Instances(boxes, torch.ones_like(labels, dtype=torch.bool), labels, scores, masks)
    truth = [
        {
            "masks": torch.from_numpy(np.stack([*drawn]) if len(drawn) else np.zeros((0, HEIGHT, WIDTH), bool)),
            "labels": torch.from_numpy(annotations.labels[rows]),
            "iscrowd": torch.from_numpy(annotations.crowd[rows].astype(np.int64)),
            "area": torch.from_numpy(annotations.areas[rows]),
        }
        for rows in map(annotations.objects, range(500))
        for drawn in [[*annotations.masks.draw(np.arange(rows.start, rows.stop), HEIGHT, WIDTH)]]
    ]

    def ours() -> float:
        metric = CocoAP(annotations.classes)
        for row in range(500):
            one = Instances._make(column[row : row + 1] for column in detections)
            metric.update(one, annotation_targets(annotations, [row]))
        return metric.compute()["mask_AP"]

    def theirs() -> float:
        metric = MeanAveragePrecision(iou_type="segm", backend="faster_coco_eval")
        for row in range(500):
            pasted = paste_masks_in_image(masks[row, :, None], boxes[row], (HEIGHT, WIDTH))[:, 0] >= 0.5
            metric.update([{"masks": pasted, "scores": scores[row], "labels": labels[row]}], [truth[row]])
        return float(metric.compute()["map"])

    print(f"AP of masks: {ours():.5f}, torchmetrics {theirs():.5f}")
    return {"detseg": ours, "torchmetrics": theirs}


def outlines(boxes: NDArray[np.float64]) -> Masks:
    """Polygons of 27 corners, nearly ellipses, that fill boxes (N, 4)."""
    angles = np.linspace(0, 2 * np.pi, 28)[:-1]
    middles, halves = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    corners = middles[:, None] + halves[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return concat_masks([(POLYGONS, pack_polygons([one])) for one in corners.reshape(len(boxes), -1).tolist()])


def evaluation_case(images: int = 5000) -> tuple[DetectionAnnotations, Detections]:
    """Objects as many and as clustered as in val2017, four in ten detections near one of them, 1 % crowds."""
    random = np.random.default_rng(0)
    classes, each = 80, 100
    counts = random.geometric(1 / 8.4, images) - 1
    total = int(counts.sum())
    there = random.choice(classes, (images, 3), p=1 / np.arange(1, classes + 1) / (1 / np.arange(1, classes + 1)).sum())
    labels = there[np.repeat(np.arange(images), counts), random.integers(0, 3, total)]
    boxes, sides = random_boxes(random, total)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    annotations = DetectionAnnotations(
        classes=tuple(str(label) for label in range(classes)),
        category_ids=tuple(range(1, classes + 1)),
        root=Path(),
        files=np.arange(images).astype(np.str_),
        image_ids=np.arange(1, images + 1),
        sizes=np.tile(np.array([[HEIGHT, WIDTH]], np.int32), (images, 1)),
        offsets=offsets,
        boxes=boxes,
        labels=labels,
        areas=sides.prod(axis=1) * random.uniform(0.4, 1, total),
        crowd=random.random(total) < 0.012,
        difficult=np.zeros(total, bool),
        ids=np.arange(1, total + 1),
    )
    image = np.repeat(np.arange(images), each)
    near = (counts[image] > 0) & (random.random(len(image)) < 0.4)
    source = np.where(near, offsets[image] + (random.random(len(image)) * counts[image]).astype(int), 0)
    moved = boxes[source] + 0.1 * np.tile(sides[source], 2) * random.normal(size=(len(image), 4))
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
    somewhere = np.where(random.random(len(image)) < 0.5, there[image, 0], random.integers(0, classes, len(image)))
    scores = np.where(near, random.beta(2, 3, len(image)), random.beta(1, 6, len(image)))
    order = np.lexsort((-scores, image))
    found = Detections(
        image,
        np.where(near[:, None], moved, random_boxes(random, len(image))[0])[order],
        np.where(near, labels[source], somewhere)[order],
        scores[order],
    )
    return annotations, found


def random_boxes(random: np.random.Generator, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Boxes (count, 4) of all sizes inside the image, and their sides (count, 2)."""
    sides = np.exp(random.normal(4, 1, (count, 2))).clip(3, 400)
    corners = random.random((count, 2)) * (np.array([WIDTH, HEIGHT]) - sides)
    return np.concatenate([corners, corners + sides], axis=1), sides
