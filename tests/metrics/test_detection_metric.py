"""The states of metrics of detection: batches, duplicates, masks, and several ranks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from detseg.metrics import CocoAP, DetectionMetric, VocAP
from detseg.ops.rle import decode, from_string
from detseg.structures import Instances
from tests.ranks import on_two_ranks

IMAGES = 7  # odd, and one of the batches is not full
SIZE = (900, 1000)


class Collected(DetectionMetric):
    """Counts what it has collected."""

    uses_masks = True

    def compute(self) -> dict[str, float]:
        return {"count": float(len(self.collect()[1].images))}


def target(image: int, **values: object) -> dict[str, object]:
    """An image with one object."""
    random = torch.Generator().manual_seed(image)
    corners = 500 * torch.rand(1, 2, generator=random)
    boxes = torch.cat([corners, corners + 300], dim=1)
    return {"image_index": image, "boxes": boxes, "labels": torch.tensor([image % 4]), "size": SIZE, **values}


def rectangle(boxes: Tensor) -> Tensor:
    """The mask (1, h, w) of one box (1, 4)."""
    x1, y1, x2, y2 = boxes[0].round().int().tolist()
    mask = torch.zeros(1, *SIZE, dtype=torch.bool)
    mask[:, y1:y2, x1:x2] = True
    return mask


def batches(rank: int, ranks: int) -> Iterator[tuple[Instances, list[dict]]]:
    """The images of one rank, two at a time; image 3 has no detections, and only the even images have many."""
    random = torch.Generator().manual_seed(0)
    boxes = torch.cat([target(image)["boxes"] for image in range(IMAGES)])[:, None].expand(-1, 5, -1)
    boxes = boxes + 40 * torch.rand(IMAGES, 5, 4, generator=random)
    valid = torch.rand(IMAGES, 5, generator=random) < 0.6
    labels = torch.arange(IMAGES)[:, None].expand(-1, 5) % 4
    scores = (4 * torch.rand(IMAGES, 5, generator=random)).round() / 4  # with ties
    valid[3] = valid[:, 4:] = False
    for start in range(rank, IMAGES, 2 * ranks):
        rows = list(range(start, min(start + 2 * ranks, IMAGES), ranks))
        count = 5 - start % 2  # the padding differs from batch to batch
        masks = labels[rows, :count, None, None].expand(-1, -1, 4, 4) / 3  # told apart by what they hold
        yield (
            Instances(boxes[rows, :count], valid[rows, :count], labels[rows, :count], scores[rows, :count], masks),
            [target(image, masks=rectangle(target(image)["boxes"])) for image in rows],
        )


def test_keeps_what_is_valid_in_the_order_of_the_images() -> None:
    metric = Collected()
    boxes = torch.arange(24.0).reshape(2, 3, 4)
    valid = torch.tensor([[True, False, True], [True, True, False]])
    labels, scores = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[0.5, 0.75, 0.25], [0.125, 1, 0]])
    metric.update(Instances(boxes, valid, labels, scores), [target(9), target(2)])
    assert metric.compute() == {"count": 4}
    images, found, _, confidence, masks = metric.detections
    assert masks is None
    assert images.tolist() == [0, 0, 1, 1]
    assert metric.ground_truth.image_index.tolist() == [2, 9]
    assert found[:, 0].tolist() == [12, 16, 0, 8]
    assert confidence.tolist() == [0.125, 1, 0.5, 0.25]
    assert (found.dtype, confidence.dtype) == (np.float64, np.float64)
    metric.reset()
    assert metric.detections is None
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert metric.compute() == {"count": 0}
    assert [column.shape for column in metric.detections[:4]] == [(0,), (0, 4), (0,), (0,)]


def test_an_image_that_is_added_again_does_not_count() -> None:
    once, again = (CocoAP(classes="abcd") for _ in range(2))
    for preds, targets in batches(0, 1):
        once.update(preds, targets)
        again.update(preds, targets)
    for preds, targets in list(batches(0, 1))[:2]:
        again.update(preds, targets)
    assert str(once.compute()) == str(again.compute())  # as text, since NaN is not NaN
    assert len(again.ground_truth.labels) == IMAGES


def test_masks_become_run_lengths_in_the_order_of_the_images() -> None:
    metric = Collected()
    boxes = torch.tensor([[[0.0, 0, 4, 2], [1, 1, 3, 3]], [[2, 2, 6, 4], [0, 0, 1, 1]]])
    valid = torch.tensor([[True, True], [True, False]])
    found = Instances(boxes, valid, torch.zeros(2, 2, dtype=torch.int64), torch.rand(2, 2), torch.ones(2, 2, 28, 28))
    metric.update(found, [target(5, size=(4, 6)), target(1, size=(5, 8))])
    metric.compute()
    masks = metric.detections.masks
    pixels = [decode(from_string(text), *size) for text, size in zip(masks, [(5, 8), (4, 6), (4, 6)], strict=True)]
    for mask, (x1, y1, x2, y2) in zip(pixels, [(2, 2, 6, 4), (0, 0, 4, 2), (1, 1, 3, 3)], strict=True):
        expected = np.zeros_like(mask)
        expected[y1:y2, x1:x2] = True
        assert np.array_equal(mask, expected)
    without = [{name: value for name, value in target(image).items() if name != "size"} for image in (5, 1)]
    with pytest.raises(ValueError, match="size"):
        metric.update(found, without)
    metric.update(found._replace(masks=None), [target(6), target(7)])
    with pytest.raises(ValueError, match="image 6: its predictions have no masks"):
        metric.compute()


@pytest.mark.parametrize(("without", "name"), [(0, 5), (1, 1)])
def test_an_image_without_masks_is_named(without: int, name: int) -> None:
    """In one update, and in two."""
    targets = [target(image, masks=rectangle(target(image)["boxes"])) for image in (5, 1)]
    columns = ("boxes", "labels", "masks")
    preds = [{"scores": torch.tensor([0.5]), **{key: image[key] for key in columns}} for image in targets]
    del preds[without]["masks"]
    for size in (2, 1):
        metric = Collected()
        for start in range(0, 2, size):
            metric.update(preds[start : start + size], targets[start : start + size])
        with pytest.raises(ValueError, match=f"image {name}: its predictions have no masks"):
            metric.compute()


def test_reads_half_precision_and_refuses_half_an_object() -> None:
    metric = Collected()
    boxes, valid, labels = torch.ones(1, 1, 4), torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.int64)
    metric.update(Instances(boxes.half(), valid, labels, torch.tensor([[0.5]]).bfloat16()), [target(0)])
    metric.compute()
    assert metric.detections.scores.tolist() == [0.5]
    with pytest.raises(ValueError, match="scores"):
        metric.update(Instances(boxes, valid, labels), [target(0)])
    with pytest.raises(ValueError, match="must be as many"):
        metric.update([{"boxes": boxes[0], "labels": labels[0], "scores": torch.zeros(2)}], [target(0)])
    with pytest.raises(ValueError, match="must be as many"):
        metric.update(Instances(boxes, valid, labels, boxes[..., 0]), [target(0, iscrowd=torch.zeros(2))])


def computed(rank: int, ranks: int) -> list[dict[str, float]]:
    """The values of boxes, masks and VOC of the images of a rank."""
    metrics: list[DetectionMetric] = [CocoAP(classes="abcd"), VocAP(2007, classes="abcd")]
    for metric in metrics:
        for preds, targets in batches(rank, ranks):
            metric.update(preds, targets)
    return [metric.compute() for metric in metrics]


def rank_main(folder: Path) -> None:
    """Compute twice: images dealt to both ranks, then everything on rank 0."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    (folder / f"both{rank}.json").write_text(json.dumps(computed(rank, 2)))
    (folder / f"one{rank}.json").write_text(json.dumps(computed(0 if rank == 0 else IMAGES, 1)))
    metric = CocoAP()  # every rank goes on with its own batches
    for preds, targets in batches(rank, 2):
        metric.update(preds, targets)
        metric._computed = None
        metric.compute()
    assert len(metric.batches) == 2
    dist.destroy_process_group()


def test_two_ranks_give_what_one_process_gives(tmp_path: Path) -> None:
    single = computed(0, 1)
    assert 0 < single[0]["AP"] < 1
    assert 0 < single[0]["mask_AP"] < 1
    assert 0 < single[1]["VOC07_AP"] < 1
    on_two_ranks(rank_main, tmp_path)
    for name in ("both0", "both1", "one0", "one1"):
        assert (tmp_path / f"{name}.json").read_text() == json.dumps(single)
