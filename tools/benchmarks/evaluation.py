"""Speed of average precision."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import faster_coco_eval
import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import Annotations
from detseg.metrics import Detections, coco_ap, coco_results

HEIGHT, WIDTH = 480, 640

Call = Callable[[], object]


def evaluate(device: str, half: bool) -> dict[str, Call]:
    """COCO's figures of a data set as large as val2017: 5,000 images, 500,000 detections.

    Ours starts with arrays. The others start with the dictionaries they take, which are made beforehand.
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

    return {
        "detseg": lambda: coco_ap(annotations, found),
        "faster-coco-eval": peer(faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster),
    }


def evaluation_case() -> tuple[Annotations, Detections]:
    """Objects as many and as clustered as in val2017, four in ten detections near one of them, 1 % crowds."""
    random = np.random.default_rng(0)
    images, classes, each = 5000, 80, 100
    counts = random.geometric(1 / 8.4, images) - 1
    total = int(counts.sum())
    there = random.choice(classes, (images, 3), p=1 / np.arange(1, classes + 1) / (1 / np.arange(1, classes + 1)).sum())
    labels = there[np.repeat(np.arange(images), counts), random.integers(0, 3, total)]
    boxes, sides = random_boxes(random, total)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    annotations = Annotations(
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
