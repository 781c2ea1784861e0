"""Rules that name what keeps the metrics down, the most costly first, each with images that show it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from detseg.metrics.tide import BACKGROUND, FOREGROUND
from detseg.metrics.zero_ap import explain_zero_ap
from detseg.plural import counted
from detseg.report.duplicates import shared_images
from detseg.report.evaluation import Cause, DetectionRun, Rows
from detseg.report.geometry import systematic_difference
from detseg.report.training import training_causes

MAX_IMAGES = 6  # that show a cause
FEW_OBJECTS, FEW_IMAGES = 20, 10  # of a validation set that is too small for reliable metrics
MIN_AGREEMENT = 0.5  # of well-localised boxes under one change of the classes
EXPECTED = 5  # objects of a class that chance would hardly leave out of a split
RELIABLE = 0.5  # AP50 of a model that can judge labels
UNLABELLED = 0.05  # confident detections where nothing is labelled, as a share of all confident ones
UNCOVERED = 0.4  # objects without an anchor of IoU .5
LEAKED = 0.02  # validation images that are in the training split
ZOOM = 2.5  # times the size of objects in training
MAX_NORMAL_MEAN, NORMAL_STD = 3.0, (0.03, 3.0)  # of normalised pixels: ImageNet's black is -2.1, and white is 2.6


def find_causes(run: DetectionRun) -> list[Cause]:
    """Apply all rules, and order what they name by cost."""
    rules: list[Callable[[DetectionRun], Iterator[Cause]]] = [
        *(_validation, _nothing, _classes, _boxes, _anchors, _unlabelled, _shared, _normalization, _sizes),
        training_causes,
    ]
    causes = [cause for rule in rules for cause in rule(run)]
    if any(cause.name.startswith("boxes-") for cause in causes):  # so that detections lie beside their objects
        causes = [cause for cause in causes if cause.name != "unlabelled"]
    if not causes and run.boxes.tide.ap50 == 0:
        causes = [Cause("zero", explain_zero_ap(run.truth, run.detections, run.classes), 1.0)]
    return sorted(causes, key=lambda cause: -cause.cost)


def _validation(run: DetectionRun) -> Iterator[Cause]:
    objects = int(run.boxes.counted.sum())
    images = len(np.unique(run.truth.images[run.boxes.counted]))
    if objects < FEW_OBJECTS or images < FEW_IMAGES:
        yield Cause(
            "validation-small",
            f"The validation set has {counted(objects, 'object')} in {counted(images, 'image')}: its metrics are "
            f"unreliable. Evaluate on at least {FEW_IMAGES} images with objects.",
            1.0,
            np.unique(run.truth.images).tolist()[:MAX_IMAGES],
        )
    if run.train is None or not objects:
        return
    in_train = np.bincount(run.train.labels, minlength=len(run.classes)) / max(1, len(run.train.labels))
    absent = [
        label for label in np.flatnonzero(run.boxes.objects == 0).tolist() if in_train[label] * objects >= EXPECTED
    ]
    if absent:
        names, share = ", ".join(run.classes[label] for label in absent), float(in_train[absent].sum())
        detected = np.unique(run.detections.images[np.isin(run.detections.labels, absent)])
        yield Cause(
            "class-absent",
            f"The validation set has no object of {names}, {100 * share:.0f} % of the training objects: no metric "
            "covers it, and the mean excludes it. Check the class names of both splits, or split the data again.",
            max(share, 0.3),
            detected[:MAX_IMAGES].tolist(),
        )


def _nothing(run: DetectionRun) -> Iterator[Cause]:
    scores = run.detections.scores
    if not len(scores):
        yield Cause(
            "no-detections",
            "The model predicts no object: it has not been trained long enough, or its score threshold is too high.",
            1.0,
        )
    elif scores.max() < 0.05 and run.boxes.tide.ap50 < 0.5:
        yield Cause(
            "scores-low",
            f"No score is above {scores.max():.3f}: the model has not learnt to separate objects from the background.",
            0.9,
        )


def _classes(run: DetectionRun) -> Iterator[Cause]:
    """Name classes that are shifted by a constant, or swapped with each other."""
    table, pairs = class_table(run)
    many, total = len(table), int(table.sum())
    if many < 2 or total < EXPECTED:
        return
    label = np.arange(many)
    shifts = np.array([table[label, (label + shift) % many].sum() / total for shift in range(many)])
    shift = int(shifts[1:].argmax()) + 1
    places, direction = (shift, "after") if shift <= many / 2 else (many - shift, "before")
    if shifts[shift] >= MIN_AGREEMENT and shifts[shift] > 2 * shifts[0] and (many > 2 or shifts[0] < 0.1):
        example = int(np.bincount(run.truth.labels[pairs[1]], minlength=many).argmax())
        yield Cause(
            "classes-shifted",
            f"For {100 * shifts[shift]:.0f} % of the well-localised boxes, the predicted class is "
            f"{counted(places, 'place')} {direction} the labelled one in the list of classes, such as "
            f"{run.classes[(example + shift) % many]} for {run.classes[example]}: the class numbers of the labels are "
            "shifted. Compare the class lists of training and validation.",
            float(shifts[shift]),
            _images_of(run, pairs, shift),
        )
        return
    rate = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    for a, b in zip(*np.triu_indices(many, 1), strict=True):
        if min(rate[a, b], rate[b, a]) >= MIN_AGREEMENT and min(table[a].sum(), table[b].sum()) >= EXPECTED:
            share = float((table[a, b] + table[b, a]) / total)
            yield Cause(
                "classes-swapped",
                f"{run.classes[a]} and {run.classes[b]} are mostly confused with each other: their names are "
                "swapped in one of the splits.",
                share,
                _images_of(run, pairs, None, (int(a), int(b))),
            )


def class_table(run: DetectionRun) -> tuple[Rows, tuple[Rows, Rows]]:
    """Count well-localised boxes by labelled and predicted class (K, K): the best-scoring one of each object.

    Also returns the detections (rows) and the objects of these pairs.
    """
    pairs, matches = run.boxes.pairs, run.boxes.matches
    near = pairs.iou >= FOREGROUND
    places, objects = pairs.places[near], pairs.objects[near]
    order = np.argsort(-run.boxes.scores[places], kind="stable")
    objects, first = np.unique(objects[order], return_index=True)
    rows = matches.rows[places[order][first]]
    many = len(run.classes)
    index = run.truth.labels[objects] * many + run.detections.labels[rows]
    return np.bincount(index, minlength=many * many).reshape(many, many), (rows, objects)


def _images_of(
    run: DetectionRun, pairs: tuple[Rows, Rows], shift: int | None, swapped: Sequence[int] = ()
) -> list[int]:
    predicted, labelled = run.detections.labels[pairs[0]], run.truth.labels[pairs[1]]
    if shift is not None:
        wrong = predicted == (labelled + shift) % len(run.classes)
    else:
        wrong = np.isin(predicted, swapped) & np.isin(labelled, swapped) & (predicted != labelled)
    images, counts = np.unique(run.truth.images[pairs[1][wrong]], return_counts=True)
    return [int(image) for image in images[np.argsort(-counts, kind="stable")[:MAX_IMAGES]]]


def _boxes(run: DetectionRun) -> Iterator[Cause]:
    if difference := systematic_difference(run):
        yield Cause(
            f"boxes-{difference.name}",
            f"{difference.sentence}. {100 * difference.before:.0f} % of the objects have a well-localised box; without "
            f"this difference, {100 * difference.after:.0f} % would. Correct the labels, or the code that reads them.",
            difference.after - difference.before,
            difference.images,
        )


def _anchors(run: DetectionRun) -> Iterator[Cause]:
    if run.anchor_ious is None or not run.boxes.counted.any():
        return
    uncovered = (run.anchor_ious < FOREGROUND) & run.boxes.counted
    share = float(uncovered.sum() / run.boxes.counted.sum())
    if share >= UNCOVERED:
        side = np.sqrt(np.median(run.truth.areas[uncovered]))
        others = run.boxes.counted & ~uncovered
        of_others = f", of the others {np.sqrt(np.median(run.truth.areas[others])):.0f}" if others.any() else ""
        images = np.unique(run.truth.images[uncovered])
        yield Cause(
            "anchors",
            f"{100 * share:.0f} % of the objects have no anchor with an IoU of .5 or more: the anchors do not fit. "
            f"The median side of these objects is {side:.0f} pixels in the original images{of_others}. Change "
            "rpn.anchor_generator.sizes, or the size to which the images are resized.",
            share,
            images[:MAX_IMAGES].tolist(),
        )


def _unlabelled(run: DetectionRun) -> Iterator[Cause]:
    """Name confident detections, from the median score of the true positives, far from every object."""
    boxes = run.boxes
    if boxes.tp.sum() < EXPECTED or boxes.tide.ap50 < RELIABLE:
        return
    nearest, _ = boxes.pairs.best(np.ones(len(boxes.pairs.places), dtype=bool), len(boxes.scores))
    confident = boxes.scores >= np.median(boxes.scores[boxes.tp])
    alone = confident & boxes.fp & (nearest <= BACKGROUND)
    right = (confident & boxes.tp).sum()
    share = float(alone.sum() / max(1, right + alone.sum()))
    if share >= UNLABELLED and alone.sum() >= EXPECTED and right >= (confident & boxes.fp).sum():
        images, counts = np.unique(boxes.images[alone], return_counts=True)
        yield Cause(
            "unlabelled",
            f"{alone.sum()} of the confident detections ({100 * share:.0f} %) lie where nothing is labelled, although "
            "the model is mostly right at such scores: some objects are probably not labelled. See the suspected label "
            "errors.",
            share,
            images[np.argsort(-counts, kind="stable")[:MAX_IMAGES]].tolist(),
        )


def _shared(run: DetectionRun) -> Iterator[Cause]:
    if run.train is None:
        return
    shared, share = shared_images(run)
    if share >= LEAKED:
        yield Cause(
            "leak",
            f"{100 * share:.0f} % of the validation images are copies or near copies of training images: the metrics "
            "are too high. Split the data so that copies and neighbouring frames stay in one split.",
            max(share, 0.3),
            shared[:MAX_IMAGES],
        )


def _normalization(run: DetectionRun) -> Iterator[Cause]:
    if run.normalization is None or run.pixels is None:
        return
    mean, std = run.normalization
    normal_mean, normal_std = (run.pixels[0] - mean) / std, run.pixels[1] / std
    if np.abs(normal_mean).max() > MAX_NORMAL_MEAN or not (
        NORMAL_STD[0] <= normal_std.min() and normal_std.max() <= NORMAL_STD[1]
    ):
        yield Cause(
            "normalization",
            f"The normalised images have the mean {normal_mean.mean():.1f} and the standard deviation "
            f"{normal_std.mean():.1f} instead of about 0 and 1: mean or std of the backbone are not those of its "
            "weights.",
            0.95,
        )


def _sizes(run: DetectionRun) -> Iterator[Cause]:
    """Name objects that take far less or more of their images, which are resized, than in training."""
    if run.train is None or not len(run.train.areas) or not run.boxes.counted.any():
        return
    of_train = np.repeat(run.train.sizes, np.diff(run.train.offsets), axis=0)
    shares = run.truth.areas / run.sizes[run.truth.images].prod(axis=1)
    before, now = np.median(run.train.areas / of_train.prod(axis=1)), np.median(shares[run.boxes.counted])
    ratio = float(np.sqrt(now / before)) if before else 1.0
    if max(ratio, 1 / ratio) >= ZOOM:
        yield Cause(
            "object-size",
            f"The objects are {ratio:.2g} times as large as in training, by their median side against that of the "
            "image: crop or resize the images so that they are alike, or train at several sizes.",
            0.4,
        )
