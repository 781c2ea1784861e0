"""The sections of the report on a detector: plain values for report.json and the page, with views of images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from detseg.metrics.base import defined_mean
from detseg.metrics.bootstrap import interval
from detseg.metrics.calibration import calibrate
from detseg.metrics.label_errors import LabelError, suspected_label_errors
from detseg.metrics.operating_point import confusion
from detseg.metrics.stages import OUTCOMES, TOP, proposal_recalls, stage_outcomes
from detseg.metrics.tide import ERRORS
from detseg.plural import counted
from detseg.report.causes import RELIABLE, find_causes
from detseg.report.evaluation import THRESHOLDS, DetectionRun, Evaluation
from detseg.report.pictures import Album, View
from detseg.report.slices import slices

MAX_CELLS = 400  # of the confusion matrix at one threshold, the largest first
CELL_VIEWS, CELLS_WITH_VIEWS = 3, 15
VIEWS = 8  # of one type of error, and so on
MAX_LABEL_ERRORS, LABEL_ERROR_VIEWS = 500, 100
COCO_CLASSES, COCO_IMAGES, COCO_OBJECTS = 80, 5000, 36_335  # of val2017, without crowds
MISS_COST = 5.0  # false positives

Section = dict[str, Any]


def detection_sections(run: DetectionRun, album: Album, miss_cost: float = MISS_COST) -> Section:
    """All sections, by name; images are embedded into ``album`` in the order of their importance."""
    causes = [
        {"name": cause.name, "sentence": cause.sentence, "cost": cause.cost}
        | {"views": album.add(View(image) for image in cause.images)}
        for cause in find_causes(run)
    ]
    return {
        "verdict": verdict(run),
        "causes": causes,
        "errors": {of.of: error_types(of, album) for of in (run.boxes, run.masks) if of},
        "label_errors": label_errors(run, album),
        "reliable": RELIABLE,
        "operating_point": operating_point(run, album, miss_cost),
        "classes": class_table(run, miss_cost),
        "slices": slices(run),
        "calibration": calibration(run),
        "worst": worst(run, album),
        "stages": stages(run, album),
    }


def verdict(run: DetectionRun) -> Section:
    """The main metrics with their confidence intervals, and whether they can be compared with published ones."""
    figures = []
    for of, prefix in ((run.boxes, ""), (run.masks, "mask_")):
        for name in ("AP", "AP50", "AP75") if of else ():
            replicates = of.replicates_of(name)  # type: ignore[union-attr]
            low, high = interval(replicates)
            value = run.metrics.get(f"{prefix}{name}", math.nan)
            figures.append({"name": f"{prefix.replace('_', ' ')}{name}", "value": value, "low": low, "high": high})
    images, many, objects = len(run.rows), len(run.classes), int(run.boxes.counted.sum())
    if (many, images, objects) == (COCO_CLASSES, COCO_IMAGES, COCO_OBJECTS):
        comparable = "80 classes on 5,000 images, as COCO val2017: comparable with published metrics."
    else:
        comparable = (
            f"{counted(images, 'image')} and {counted(many, 'class')}, unlike COCO val2017: not comparable with "
            "published metrics, which are measured on other images and classes."
        )
    most = int(np.bincount(run.detections.images, minlength=1).max(initial=0))
    limits = f"At most {most} detections of an image, with scores from {run.detections.scores.min(initial=1):.3f}"
    cut = "; a threshold on the scores lowers AP." if run.detections.scores.min(initial=0) > 0.1 else "."
    undefined = [name for name, count in zip(run.classes, run.boxes.objects, strict=True) if not count]
    return {
        "figures": figures,
        "images": images,
        "objects": objects,
        "detections": len(run.detections.scores),
        "comparable": [comparable, limits + cut]
        + ([f"No object of {', '.join(undefined[:20])}: the means leave such classes out."] if undefined else []),
    }


def error_types(of: Evaluation, album: Album) -> Section:
    """TIDE's errors with their costs, counts and examples."""
    errors = of.tide
    examples: dict[str, list[View]] = {}
    for index, name in enumerate(ERRORS[:-1]):
        of_type = np.flatnonzero(errors.types == index)
        best = of_type[np.argsort(-of.scores[of_type], kind="stable")[:VIEWS]]
        examples[name] = [_view(of, place, int(errors.targets[place])) for place in best.tolist()]
    missed = np.flatnonzero(errors.missed)
    largest = missed[np.argsort(-of.run.truth.areas[missed], kind="stable")[:VIEWS]].tolist()
    examples["missed"] = [View(int(of.run.truth.images[row]), _class(of.run, row), (row,)) for row in largest]
    counts = {name: int((errors.types == index).sum()) for index, name in enumerate(ERRORS[:-1])}
    counts["missed"] = len(missed)
    return {
        "AP50": errors.ap50,
        "costs": errors.costs,
        "counts": counts,
        "views": {name: album.add(views) for name, views in examples.items()},
    }


def _view(of: Evaluation, place: int, target: int = -1) -> View:
    row = int(of.matches.rows[place])
    name = of.run.classes[of.labels[place]]
    caption = f"{name} {of.scores[place]:.2f}" + (f", labelled {_class(of.run, target)}" if target >= 0 else "")
    return View(int(of.images[place]), caption, (target,) if target >= 0 else (), (row,))


def _class(run: DetectionRun, row: int) -> str:
    return run.classes[int(run.truth.labels[row])]


def operating_point(run: DetectionRun, album: Album, miss_cost: float) -> Section:
    """Counts and confusion at each threshold of the slider, and views of the most frequent confusions."""
    boxes, many = run.boxes, len(run.classes)
    steps = []
    for threshold in THRESHOLDS:
        counts = confusion(run.truth, run.detections, boxes.matches, boxes.confused, many, float(threshold))
        cells = counts.cells[np.argsort(-counts.cells[:, 2], kind="stable")[:MAX_CELLS]]
        steps.append(
            {"tp": counts.tp.tolist(), "fp": counts.fp.tolist(), "fn": counts.fn.tolist(), "cells": cells.tolist()}
        )
    album.add(_confusion_views(run))
    overall = boxes.curves[-1]
    return {
        "thresholds": THRESHOLDS.tolist(),
        "steps": steps,
        "best F1": {"all classes": overall.best_f1()},
        "miss cost": miss_cost,
        "cheapest": {"all classes": overall.cheapest(miss_cost)},
        "curves": {
            name: curve.sampled()
            for name, curve in zip([*run.classes, "all classes"], boxes.curves, strict=True)
            if len(curve.recall)
        },
    }


def _confusion_views(run: DetectionRun) -> Iterator[View]:
    """Images of the most frequent pairs of classes."""
    boxes = run.boxes
    places = np.flatnonzero(boxes.confused >= 0)
    places = places[np.argsort(-boxes.scores[places], kind="stable")]
    pairs = np.stack([run.truth.labels[boxes.confused[places]], boxes.labels[places]], axis=1)
    cells, counts = np.unique(pairs, axis=0, return_counts=True)
    for cell in cells[np.argsort(-counts, kind="stable")[:CELLS_WITH_VIEWS]]:
        for place in places[(pairs == cell).all(axis=1)][:CELL_VIEWS].tolist():
            yield _view(boxes, place, int(boxes.confused[place]))


def class_table(run: DetectionRun, miss_cost: float) -> list[Section]:
    """Metrics, sizes and thresholds of each class."""
    boxes, table = run.boxes, []
    of_classes = boxes.replicates.mean(axis=2)
    for label, name in enumerate(run.classes):
        chosen = boxes.counted & (run.truth.labels == label)
        low, high = interval(of_classes[:, label])
        curve = boxes.curves[label]
        table.append(
            {
                "name": name,
                "AP": run.metrics.get(f"AP/{name}", math.nan),
                "low": low,
                "high": high,
                "mask AP": run.metrics.get(f"mask_AP/{name}", math.nan),
                "objects": int(chosen.sum()),
                "detections": int((boxes.labels == label).sum()),
                "median side": float(np.sqrt(np.median(run.truth.areas[chosen]))) if chosen.any() else math.nan,
                "best IoU": defined_mean(boxes.best_iou[chosen]),
                "best F1 threshold": curve.best_f1(),
                "cheapest threshold": curve.cheapest(miss_cost) if chosen.any() else math.nan,
            }
        )
    return table


def calibration(run: DetectionRun) -> Section:
    """Scores against precision at IoU .5."""
    decided = run.boxes.tp | run.boxes.fp
    return calibrate(run.boxes.scores[decided], run.boxes.tp[decided])._asdict()


def worst(run: DetectionRun, album: Album) -> dict[str, list[Section]]:
    """Images with the most errors at the best threshold, and poor masks."""
    counts = run.boxes.image_counts()
    errors = counts[:, 1:].sum(axis=1)
    order = np.argsort(-errors, kind="stable")[: 2 * VIEWS]
    views = {
        "images": [
            View(image, f"{counts[image, 0]} right, {counts[image, 1]} wrong, {counts[image, 2]} missed")
            for image in order[errors[order] > 0].tolist()
        ]
    }
    if run.masks:
        same = run.masks.labels[run.masks.pairs.places] == run.truth.labels[run.masks.pairs.objects]
        best = np.zeros(len(run.boxes.counted))
        np.maximum.at(best, run.masks.pairs.objects[same], run.masks.pairs.iou[same])
        places = np.flatnonzero(run.boxes.tp)
        objects = run.boxes.matches.objects[places]
        poorest = np.argsort(best[objects], kind="stable")[:VIEWS]
        views["poor masks"] = [
            _view(run.boxes, place, row)._replace(caption=f"{_class(run, row)}, mask IoU {best[row]:.2f}")
            for place, row in zip(places[poorest].tolist(), objects[poorest].tolist(), strict=True)
        ]
    return {name: album.add(of_kind) for name, of_kind in views.items()}


def label_errors(run: DetectionRun, album: Album) -> list[Section]:
    """Suspected label errors, the first with views; a detection says what would be right."""
    errors = suspected_label_errors(run.truth, run.detections, run.boxes.matches, MAX_LABEL_ERRORS)
    entries = []
    for number, one in enumerate(errors):
        view = View(
            one.image,
            objects=(one.object,) if one.object >= 0 else (),
            detections=(one.detection,) if one.detection >= 0 else (),
        )
        views = album.add([view]) if number < LABEL_ERROR_VIEWS else []
        entries.append(_label_error(run, one) | {"views": views})
    return entries


def _label_error(run: DetectionRun, one: LabelError) -> Section:
    entry: Section = {
        "kind": one.kind,
        "score": round(one.score, 4),
        "file": str(run.annotations.files[run.rows[one.image]]),
    }
    if one.object >= 0:
        first = int(np.searchsorted(run.truth.images, one.image))
        row = int(run.annotations.offsets[run.rows[one.image]]) + one.object - first
        entry["annotation"] = int(run.annotations.ids[row])
        entry["label"] = _class(run, one.object)
        entry["box"] = run.truth.boxes[one.object].round(2).tolist()
    if one.detection >= 0:
        entry["suggested label"] = run.classes[run.detections.labels[one.detection]]
        entry["suggested box"] = run.detections.boxes[one.detection].round(2).tolist()
    return entry


def stages(run: DetectionRun, album: Album) -> Section:
    """Recall of proposals, and the stage that loses each object."""
    best = None if run.proposals is None else run.proposals[:, -1]
    masks = run.masks.matches if run.masks else None
    outcomes = stage_outcomes(run.truth, run.detections, run.boxes.matches, run.boxes.pairs, best, masks)
    rows = {
        name: np.flatnonzero(outcomes == index)
        for index, name in enumerate(OUTCOMES)
        if (outcomes == index).any() and (name != "not proposed" or run.proposals is not None)
    }
    recalls = None
    if run.proposals is not None:
        objects = run.boxes.counted
        recalls = {"top": list(TOP)} | proposal_recalls(run.proposals[objects], run.truth.areas[objects])
    return {
        "outcomes": {name: len(of_outcome) for name, of_outcome in rows.items()},
        "proposal recall": recalls,
        "views": {
            name: album.add(View(int(run.truth.images[row]), _class(run, row), (row,)) for row in some[:VIEWS].tolist())
            for name, some in rows.items()
            if name != "detected"
        },
    }
