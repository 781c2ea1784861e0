from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from detseg.metrics import SemanticIoU, format_tables
from detseg.metrics.table import WIDTH
from detseg.structures import IGNORE_INDEX
from tests.ranks import on_two_ranks

CLASSES = ("sky", "road", "car", "tree", "pole")
IMAGES = 5


def blocks(seed: int, images: int = IMAGES, height: int = 60, width: int = 80, classes: int = 5) -> Tensor:
    """Maps of rectangles that overlap."""
    generator = np.random.default_rng(seed)
    result = np.zeros((images, height, width), dtype=np.int64)
    for one in result:
        for _ in range(8):
            y, x = generator.integers(0, (height, width))
            one[y : y + generator.integers(2, 40), x : x + generator.integers(2, 40)] = generator.integers(classes)
    return torch.from_numpy(result)


def generated(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Predictions that are partly right, labels with some void and padding, and sizes."""
    labels, other = blocks(seed), blocks(seed + 100)
    random = torch.rand(labels.shape, generator=torch.Generator().manual_seed(seed))
    predictions = torch.where(blocks(seed + 200) > 2, other, labels.roll((1, 2), (1, 2)))
    labels = torch.where(random < 0.05, IGNORE_INDEX, labels)
    sizes = torch.tensor([[60, 80], [60, 79], [41, 80], [60, 80], [33, 65]])
    for one, (height, width) in zip(labels, sizes.tolist(), strict=True):
        one[height:], one[:, width:] = IGNORE_INDEX, IGNORE_INDEX
    return predictions, labels, sizes


def count(*rows: int, seed: int = 0) -> SemanticIoU:
    metric = SemanticIoU(CLASSES)
    predictions, labels, sizes = generated(seed)
    for row in rows:
        metric.update(predictions[row : row + 1], labels[row : row + 1], sizes[row : row + 1])
    return metric


def boundary(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The rule as the authors published it: the mask in a margin of zeros, less what a repeated erosion leaves."""
    height, width = mask.shape
    dilation = max(1, round(0.02 * np.sqrt(height**2 + width**2)))
    margin = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(margin, np.ones((3, 3), dtype=np.uint8), iterations=dilation)[1:-1, 1:-1]
    return (mask - eroded).astype(bool)


@pytest.mark.parametrize("seed", range(3))
def test_counts_by_a_loop(seed: int) -> None:
    predictions, labels, sizes = generated(seed)
    metric = SemanticIoU(CLASSES)
    metric.update(predictions, labels, sizes)
    expected = np.zeros((5, 5), dtype=np.int64)
    for truth, found in zip(labels.flatten().tolist(), predictions.flatten().tolist(), strict=True):
        if truth != IGNORE_INDEX:
            expected[truth, found] += 1
    assert metric.matrix.dtype == torch.int64
    assert metric.matrix.tolist() == expected.tolist()

    values = metric.compute()
    total, n = expected.sum(), len(CLASSES)
    accuracy = [expected[i, i] / expected[i].sum() for i in range(n)]
    iou = [expected[i, i] / (expected[i].sum() + expected[:, i].sum() - expected[i, i]) for i in range(n)]
    weighted = sum(expected[i].sum() * iou[i] for i in range(n)) / total
    assert values["pixel_accuracy"] == pytest.approx(sum(expected[i, i] for i in range(n)) / total)
    assert values["mean_accuracy"] == pytest.approx(sum(accuracy) / n)
    assert values["mean_IoU"] == pytest.approx(sum(iou) / n)
    assert values["frequency_weighted_IoU"] == pytest.approx(weighted)
    assert [values[f"IoU/{name}"] for name in CLASSES] == pytest.approx(iou)
    assert [values[f"accuracy/{name}"] for name in CLASSES] == pytest.approx(accuracy)
    assert 0.2 < values["mean_IoU"] < 0.8


def test_equals_torchmetrics() -> None:
    predictions, labels, sizes = generated()
    metric = SemanticIoU(CLASSES)
    metric.update(predictions, labels, sizes)
    values = metric.compute()
    for average, iou, accuracy in (
        ("macro", "mean_IoU", "mean_accuracy"),
        ("weighted", "frequency_weighted_IoU", "pixel_accuracy"),
        ("micro", None, "pixel_accuracy"),
    ):
        theirs = MulticlassAccuracy(5, average=average, ignore_index=IGNORE_INDEX)(predictions, labels)
        assert values[accuracy] == pytest.approx(theirs.item(), abs=1e-6)
        if iou:
            theirs = MulticlassJaccardIndex(5, average=average, ignore_index=IGNORE_INDEX)(predictions, labels)
            assert values[iou] == pytest.approx(theirs.item(), abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_boundary_iou_as_its_authors_count(seed: int) -> None:
    predictions, labels, sizes = generated(seed)
    metric = SemanticIoU(CLASSES)
    metric.update(predictions, labels, sizes)
    both, either = np.zeros(5), np.zeros(5)
    for found, truth, (height, width) in zip(predictions.numpy(), labels.numpy(), sizes.tolist(), strict=True):
        found, truth = found[:height, :width], truth[:height, :width]
        for label in range(5):
            masks = ((values == label).astype(np.uint8) for values in (truth, found))
            first, second = (boundary(mask) & (truth != IGNORE_INDEX) for mask in masks)
            both[label] += (first & second).sum()
            either[label] += (first | second).sum()
    values = metric.compute()
    assert [values[f"boundary_IoU/{name}"] for name in CLASSES] == pytest.approx((both / either).tolist())
    assert values["mean_boundary_IoU"] == pytest.approx((both / either).mean())


def test_a_boundary_is_wider_in_a_larger_image() -> None:
    """In 640 x 480 pixels, 2 % of the diagonal of 800 are 16."""
    labels = torch.full((1, 480, 640), 1)
    metric = SemanticIoU(CLASSES[:2])
    metric.update(labels, labels, torch.tensor([[480, 640]]))
    assert metric.boundaries[0].tolist() == [0, 480 * 640 - (480 - 32) * (640 - 32)]


def test_two_halves_are_the_whole() -> None:
    predictions, labels, sizes = generated()
    whole, halves = SemanticIoU(CLASSES), SemanticIoU(CLASSES)
    whole.update(predictions, labels, sizes)
    halves.update(predictions[:2], labels[:2], sizes[:2])
    halves.update(predictions[2:], labels[2:], sizes[2:])
    halves.update(predictions[:0], labels[:0], sizes[:0])  # what a rank gets that has run out of images
    assert torch.equal(whole.matrix, halves.matrix)
    assert torch.equal(whole.boundaries, halves.boundaries)
    assert whole.compute() == halves.compute()
    halves.reset()
    assert not halves.matrix.any()
    assert not halves.boundaries.any()


def test_padding_changes_nothing() -> None:
    predictions, labels, sizes = (values[4:] for values in generated())
    padded, cut = SemanticIoU(CLASSES), SemanticIoU(CLASSES)
    padded.update(predictions, labels, sizes)
    height, width = sizes[0].tolist()
    cut.update(predictions[:, :height, :width], labels[:, :height, :width], sizes)
    assert torch.equal(padded.matrix, cut.matrix)
    assert torch.equal(padded.boundaries, cut.boundaries)


def test_a_class_that_is_nowhere_does_not_count() -> None:
    """Class 3 is nowhere; class 2 is predicted, but labels do not have it; class 4 is labelled, and never found."""
    labels, predictions = torch.tensor([[[0, 0, 1, 1, 4]]]), torch.tensor([[[0, 2, 1, 1, 1]]])
    metric = SemanticIoU(CLASSES)
    metric.update(predictions, labels, torch.tensor([[1, 5]]))
    values = metric.compute()
    assert [values[f"IoU/{name}"] for name in CLASSES] == pytest.approx([1 / 2, 2 / 3, 0, math.nan, 0], nan_ok=True)
    accuracies = [values[f"accuracy/{name}"] for name in CLASSES]
    assert accuracies == pytest.approx([1 / 2, 1, math.nan, math.nan, 0], nan_ok=True)
    assert values["mean_IoU"] == pytest.approx((1 / 2 + 2 / 3) / 4)
    assert values["mean_accuracy"] == pytest.approx((1 / 2 + 1) / 3)
    assert values["frequency_weighted_IoU"] == pytest.approx((2 / 2 + 2 * 2 / 3) / 5)


def test_nothing_measured() -> None:
    assert all(math.isnan(value) for value in SemanticIoU(CLASSES).compute().values())


def rank_main(folder: Path) -> None:
    """Compute twice: images dealt to both ranks, then everything on rank 0."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    both = count(*range(rank, IMAGES, 2)).compute()
    one = count(*range(IMAGES if rank == 0 else 0)).compute()
    for name, values in (("both", both), ("one", one)):
        (folder / f"{name}{rank}.json").write_text(json.dumps(values))
    dist.destroy_process_group()


def test_two_ranks_give_what_one_process_gives(tmp_path: Path) -> None:
    single = count(*range(IMAGES))
    assert single.matrix.sum() > 10000
    on_two_ranks(rank_main, tmp_path)
    for name in ("both0", "both1", "one0", "one1"):
        assert json.loads((tmp_path / f"{name}.json").read_text()) == single.compute()


def test_the_table_has_every_figure() -> None:
    labels, predictions = torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 1, 1, 1]]])
    metric = SemanticIoU(("a/b", "red fox", "none"))
    metric.update(predictions, labels, torch.tensor([[1, 4]]))
    lines = format_tables([metric], metric.compute()).splitlines()
    assert [line.split() for line in lines] == [
        ["pixel", "accuracy", "75.0"],
        ["mean", "accuracy", "75.0"],
        ["mean", "IoU", "58.3"],
        ["frequency", "weighted", "IoU", "58.3"],
        ["mean", "boundary", "IoU", "58.3"],
        [],
        ["IoU", "accuracy", "boundary", "IoU"],
        ["a/b", "50.0", "50.0", "50.0"],
        ["red", "fox", "66.7", "100.0", "66.7"],
        ["none", "-", "-", "-"],
    ]
    assert len({len(line) for line in lines[6:]}) == 1
    many = SemanticIoU([f"class {label}" for label in range(150)])
    assert all(len(line) <= WIDTH for line in format_tables([many], many.compute()).splitlines())
    assert len(format_tables([many], many.compute()).splitlines()) < 90


@pytest.mark.parametrize(("label", "prediction"), [(3, 0), (0, 3), (0, -1), (254, 0)])
def test_a_label_or_prediction_of_no_class_is_an_error(label: int, prediction: int) -> None:
    """Label 0 with the prediction K = 3 would else count as label 1 with the prediction 0."""
    metric = SemanticIoU(["a", "b", "c"])
    target = torch.tensor([[[label, IGNORE_INDEX, 1]]])
    metric.update(torch.tensor([[[prediction, 9, 1]]]), target)
    with pytest.raises(ValueError, match="1 pixels have a label or a prediction outside of 0 to 2"):
        metric.compute()
    metric.reset()
    metric.update(torch.tensor([[[0, 9, 1]]]), torch.tensor([[[0, IGNORE_INDEX, 1]]]))
    assert metric.compute()["pixel_accuracy"] == 1
