from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch import Tensor

from detseg.metrics import Collector, Detections
from detseg.ops.rle import decode, from_string
from detseg.structures import Instances

IMAGES = 7  # odd, and one of the batches is not full


def batches(rank: int, ranks: int) -> Iterator[tuple[Tensor, Instances]]:
    """The images of one rank, two at a time; image 3 has no detections, and only the even images have many."""
    for start in range(rank, IMAGES, 2 * ranks):
        rows = torch.arange(start, min(start + 2 * ranks, IMAGES), ranks)
        random = torch.Generator().manual_seed(0)
        boxes, valid, labels, scores = (
            torch.rand(IMAGES, 5, 4, generator=random) * 1e3,
            torch.rand(IMAGES, 5, generator=random) < 0.6,
            torch.randint(0, 4, (IMAGES, 5), generator=random),
            torch.rand(IMAGES, 5, generator=random),
        )
        valid[3] = False
        count = 5 - start % 2  # the padding differs from batch to batch
        valid[:, 4:] = False
        yield (
            rows,
            Instances(boxes[rows, :count], valid[rows, :count], labels[rows, :count], scores[rows, :count]),
        )


def collect(rank: int, ranks: int) -> Collector:
    collector = Collector(masks=True)
    for rows, detections in batches(rank, ranks):
        masks = detections.labels[..., None, None].expand(-1, -1, 4, 4) / 3  # told apart by what they hold
        collector.add(rows, detections._replace(masks=masks), torch.tensor([[900, 1000]]).expand(len(rows), 2))
    return collector


def test_keeps_what_is_valid_in_the_order_of_the_images() -> None:
    collector = Collector()
    boxes = torch.arange(24.0).reshape(2, 3, 4)
    valid = torch.tensor([[True, False, True], [True, True, False]])
    labels, scores = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[0.5, 0.75, 0.25], [0.125, 1, 0]])
    collector.add(torch.tensor([9, 2]), Instances(boxes, valid, labels, scores))
    images, found, classes, confidence, masks = collector.gather()
    assert masks is None
    assert images.tolist() == [2, 2, 9, 9]
    assert found[:, 0].tolist() == [12, 16, 0, 8]
    assert classes.tolist() == [4, 5, 1, 3]
    assert confidence.tolist() == [0.125, 1, 0.5, 0.25]
    assert (found.dtype, confidence.dtype) == (np.float64, np.float64)
    assert (images.dtype, classes.dtype) == (np.int64, np.int64)
    collector.reset()
    assert [column.shape for column in collector.gather()[:4]] == [(0,), (0, 4), (0,), (0,)]


def test_masks_become_run_lengths_in_the_order_of_the_images() -> None:
    collector = Collector(masks=True)
    boxes = torch.tensor([[[0.0, 0, 4, 2], [1, 1, 3, 3]], [[2, 2, 6, 4], [0, 0, 1, 1]]])
    valid = torch.tensor([[True, True], [True, False]])
    found = Instances(boxes, valid, torch.zeros(2, 2, dtype=torch.int64), torch.rand(2, 2), torch.ones(2, 2, 28, 28))
    collector.add(torch.tensor([5, 1]), found, torch.tensor([[4, 6], [5, 8]]))
    masks = collector.gather().masks
    assert masks is not None
    pixels = [decode(from_string(text), *size) for text, size in zip(masks, [(5, 8), (4, 6), (4, 6)], strict=True)]
    for mask, (x1, y1, x2, y2) in zip(pixels, [(2, 2, 6, 4), (0, 0, 4, 2), (1, 1, 3, 3)], strict=True):
        expected = np.zeros_like(mask)
        expected[y1:y2, x1:x2] = True
        assert np.array_equal(mask, expected)
    collector.reset()
    assert len(collector.gather().masks) == 0
    with pytest.raises(ValueError, match="sizes"):
        collector.add(torch.tensor([5, 1]), found)


def test_reads_half_precision_and_refuses_half_an_object() -> None:
    collector = Collector()
    boxes, valid, labels = torch.ones(1, 1, 4), torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.int64)
    collector.add(torch.tensor([0]), Instances(boxes.half(), valid, labels, torch.tensor([[0.5]]).bfloat16()))
    assert collector.gather().scores.tolist() == [0.5]
    collector.add(torch.tensor([0]), Instances(boxes, valid, labels))
    with pytest.raises(ValueError, match="scores"):
        collector.gather()


def save(file: Path, found: Detections) -> None:
    assert found.masks is not None
    np.savez(file, **found._replace(masks=found.masks.astype(np.bytes_))._asdict())


def rank_main(rank: int, folder: Path) -> None:
    """Gather twice: images dealt to both ranks, then everything on rank 0."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    save(folder / f"both{rank}.npz", collect(rank, 2).gather())
    save(folder / f"one{rank}.npz", (collect(0, 1) if rank == 0 else Collector(masks=True)).gather())
    dist.destroy_process_group()


def test_two_ranks_give_what_one_process_gives(tmp_path: Path) -> None:
    single = collect(0, 1).gather()
    assert len(single.images) > 10
    assert 3 not in single.images
    processes.spawn(rank_main, (tmp_path,), nprocs=2)
    for name in ("both0", "both1", "one0", "one1"):
        shards = np.load(tmp_path / f"{name}.npz")
        for field, expected in zip(
            Detections._fields, single._replace(masks=single.masks.astype(np.bytes_)), strict=True
        ):
            assert shards[field].dtype == expected.dtype
            np.testing.assert_array_equal(shards[field], expected, err_msg=f"{name} {field}")
