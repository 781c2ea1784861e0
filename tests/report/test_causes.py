"""Planted faults are named first, and sound runs get no cause."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.metrics import Detections
from detseg.report.causes import find_causes
from detseg.report.evaluation import DetectionRun
from tests.report.runs import HEIGHT, WIDTH, detect, run_of, with_boxes, write_images

Plant = Callable[[DetectionAnnotations], DetectionAnnotations]


def history(first: float, last: float, steps: int = 1000) -> list[dict[str, float]]:
    return [
        {"step": step, "train/loss": first + (last - first) * step / steps}
        for step in np.linspace(0, steps, 50).tolist()
    ]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[DetectionAnnotations, DetectionAnnotations]:
    root = tmp_path_factory.mktemp("images")
    return write_images(root, 50, 1), write_images(root, 60, 2)


def causes(run: DetectionRun) -> list[str]:
    return [cause.name for cause in find_causes(run)]


@pytest.mark.parametrize("seed", range(5))
def test_a_sound_run_has_none(sets: tuple[DetectionAnnotations, DetectionAnnotations], seed: int) -> None:
    val, train = sets
    mean, std = np.full(3, 120.0), np.full(3, 60.0)
    known = {"history": history(2.0, 0.4), "settings": {"task": {"lr": 0.02}}, "normalization": (mean, std)}
    assert causes(run_of(val, detect(val, seed), train, **known, anchor_ious=np.full(len(val.labels), 0.7))) == []


def turned(val: DetectionAnnotations) -> DetectionAnnotations:
    x1, y1, x2, y2 = (val.boxes / np.tile([WIDTH, HEIGHT], 2)).T
    return with_boxes(val, np.stack([1 - y2, x1, 1 - y1, x2], axis=1) * np.tile([WIDTH, HEIGHT], 2))


def halved(val: DetectionAnnotations) -> DetectionAnnotations:
    centers, sides = (val.boxes[:, :2] + val.boxes[:, 2:]) / 2, val.boxes[:, 2:] - val.boxes[:, :2]
    return with_boxes(val, np.concatenate([centers - sides / 4, centers + sides / 4], axis=1))


FAULTS: dict[str, Plant] = {
    "classes-shifted": lambda val: replace(val, labels=(val.labels + 1) % 3),
    "class-absent": lambda val: val.where(val.labels != 1),
    "boxes-xywh": lambda val: with_boxes(
        val, np.concatenate([val.boxes[:, :2], val.boxes[:, 2:] - val.boxes[:, :2]], axis=1)
    ),
    "boxes-half-size": halved,
    "boxes-swapped-axes": lambda val: with_boxes(val, val.boxes[:, [1, 0, 3, 2]]),
    "boxes-turned-90": turned,
    "unlabelled": lambda val: val.where(np.arange(len(val.labels)) % 10 > 0),
    "validation-small": lambda val: val.subset(range(3)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_labels_is_named_first(
    sets: tuple[DetectionAnnotations, DetectionAnnotations], name: str
) -> None:
    val, train = sets
    planted = FAULTS[name](val)
    detections = detect(val)
    if len(planted) < len(val):
        detections = detections._replace(
            **{
                column: getattr(detections, column)[detections.images < len(planted)]
                for column in detections._fields[:4]
            }
        )
    assert causes(run_of(planted, detections, train))[:1] == [name]


def test_faults_of_the_training_are_named_first(sets: tuple[DetectionAnnotations, DetectionAnnotations]) -> None:
    val, train = sets
    poor = detect(val, recall=0.1)
    assert causes(run_of(val, poor, train, history=history(2.0, 1.2, 50)))[:1] == ["too-short"]
    assert causes(run_of(val, poor, train, anchor_ious=np.full(len(val.labels), 0.3)))[:1] == ["anchors"]
    small = val.boxes.copy()
    small[::2, 2:] = small[::2, :2] + 6
    ious = np.where(np.arange(len(small)) % 2, 0.7, 0.3)
    cause = find_causes(run_of(with_boxes(val, small), poor, train, anchor_ious=ious))[0]
    assert "The median side of these objects is 6 pixels in the original images, of the others" in cause.sentence
    raw = (np.zeros(3), np.ones(3))
    assert causes(run_of(val, poor, train, normalization=raw))[:1] == ["normalization"]


@pytest.mark.parametrize(
    ("losses", "lr", "optimizer", "expected"),
    [
        ((2.0, 1.98), 1e-6, "sgd", ["lr-small"]),
        ((2.0, 1.98), 1e-4, "adamw", ["loss-flat"]),  # usual for AdamW
        ((2.0, 1.98), 0.02, "sgd", ["loss-flat"]),
        ((2.0, 0.9), 1e-4, "sgd", ["loss-falling"]),  # small, but the model learns
    ],
)
def test_a_small_learning_rate_is_one_that_hardly_lowers_the_loss(
    sets: tuple[DetectionAnnotations, DetectionAnnotations],
    losses: tuple[float, float],
    lr: float,
    optimizer: str,
    expected: list[str],
) -> None:
    val, train = sets
    settings = {"task": {"lr": lr, "optimizer": {"name": optimizer}}}
    run = run_of(val, detect(val, recall=0.1), train, history=history(*losses), settings=settings)
    assert causes(run) == expected


def test_a_loss_that_still_falls_is_no_fault_after_its_schedule_or_without_a_trend(
    sets: tuple[DetectionAnnotations, DetectionAnnotations],
) -> None:
    val, train = sets
    poor, falling = detect(val, recall=0.1), history(2.0, 0.9)
    of_schedule = [row | {"lr-SGD": 0.02 if row["step"] < 800 else 0.002} for row in falling]
    random = np.random.default_rng(0)
    noisy = [row | {"train/loss": (3 if row["step"] < 300 else 1) * random.normal(1, 0.3)} for row in falling]
    validated = [*falling, *({"step": step, "val/AP50": 0.1} for step in range(4))]
    for rows in (of_schedule, noisy, validated):
        assert causes(run_of(val, poor, train, history=rows)) == []


def test_a_leak_is_named(sets: tuple[DetectionAnnotations, DetectionAnnotations], tmp_path: Path) -> None:
    val, train = sets
    for row, name in enumerate(val.files[:10]):  # copies under other names
        (tmp_path / f"copy{row}.jpg").write_bytes((val.root / str(name)).read_bytes())
    files = [f"copy{row}.jpg" for row in range(10)]
    leaked = replace(train.subset(range(10)), root=tmp_path, files=np.array(files))
    assert causes(run_of(val, detect(val), leaked)) == ["leak"]


@pytest.mark.parametrize(("mean", "std"), [(245.0, 35.0), (6.0, 10.0)], ids=["documents", "X-rays"])
def test_light_and_dark_images_are_no_fault(
    sets: tuple[DetectionAnnotations, DetectionAnnotations], mean: float, std: float
) -> None:
    val, train = sets
    run = run_of(val, detect(val), train, normalization=(np.full(3, 103.5), np.full(3, 57.4)))
    run.__dict__["pixels"] = (np.full(3, mean), np.full(3, std))
    assert causes(run) == []


def test_false_positives_of_a_weak_detector_are_no_unlabelled_objects(
    sets: tuple[DetectionAnnotations, DetectionAnnotations],
) -> None:
    val, train = sets
    right = detect(val, recall=0.3)
    alarms = detect(val, 1)
    corners = np.random.default_rng(0).random((len(alarms.scores), 2)) * [WIDTH - 20, HEIGHT - 20]
    alarms = alarms._replace(boxes=np.concatenate([corners, corners + 15], axis=1))
    order = np.argsort(np.concatenate([right.images, alarms.images]), kind="stable")
    both = Detections(*(np.concatenate(two)[order] for two in zip(right[:4], alarms[:4], strict=True)))
    assert "unlabelled" not in causes(run_of(val, both, train))


def test_sizes_of_objects_are_compared_after_resizing(sets: tuple[DetectionAnnotations, DetectionAnnotations]) -> None:
    val, train = sets
    enlarged = replace(train, sizes=4 * train.sizes, areas=16 * train.areas)  # photographs of another camera
    assert causes(run_of(val, detect(val), enlarged)) == []
    assert causes(run_of(val, detect(val), replace(train, areas=train.areas / 16))) == ["object-size"]
