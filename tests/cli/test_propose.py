"""`detseg propose`, from the images to the batches of a training."""

from __future__ import annotations

import pickle
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from detseg import checkpoint, cli
from detseg.configurable import from_config, to_config
from detseg.data import COCO
from detseg.data.loading.proposals import Proposals
from detseg.errors import DataError
from detseg.metrics import proposal_recall
from detseg.models import FasterRCNN
from detseg.modules import FPN, RPN, RoIHeads, TwoMLPHead
from detseg.modules.backbones import MobileNetV2
from detseg.proposals.grid import grid
from detseg.structures import rescale
from detseg.tasks import DetectionTask
from tests.colours import colours, write_colours

DATA = ["--data", "COCO", "--data.root", "colours", "--data.num_workers", "0"]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> COCO:
    write_colours(tmp_path / "colours", train=4, val=3)
    monkeypatch.chdir(tmp_path)
    return colours(Path("colours"), proposals="proposals/grid")


def read(folder: str, data: COCO, split: str = "val") -> list[np.ndarray]:
    annotations = data.train_annotations if split == "train" else data.val_annotations
    proposals = Proposals(Path(folder, f"{split}.sqlite"), annotations, "")
    return [proposals[row] for row in range(len(annotations))]


def test_what_it_writes_is_what_it_reports_and_what_training_reads(
    data: COCO, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError) as missing:
        data.train_dataloader()
    cli.main(["propose", *DATA, "--method", "grid"])
    printed = capsys.readouterr().out
    for split, count in (("train", 4), ("val", 3)):
        found = read("proposals/grid", data, split)
        annotations = data.train_annotations if split == "train" else data.val_annotations
        figures = proposal_recall(annotations, found)
        assert all(np.array_equal(boxes, grid(np.zeros((64, 64, 3), np.uint8))) for boxes in found)
        assert re.search(rf"{split}: {count} images, {len(found[0])} boxes and \d+\.\d\d seconds an image; ", printed)
        recalls = f"recall {figures['recall50']:.3f} at IoU 0.5, {figures['recall70']:.3f} at 0.7"
        assert f"{recalls}; average recall {figures['AR']:.3f}" in printed
    batch = next(iter(data.train_dataloader()))
    assert batch.proposals is not None
    assert batch.proposals.valid.sum(dim=1).tolist() == [len(found[0])] * 2
    command = shlex.split(str(missing.value).partition("compute it: ")[2])
    Path("proposals/grid/train.sqlite").unlink()
    assert command[-2:] == ["--method", "selective_search"]
    cli.main(["propose", *command[2:-1], "grid"])  # as the error said, but faster
    assert data.train_dataloader()
    assert "train: 4 images" in capsys.readouterr().out


def test_a_folder_in_the_settings_of_the_data_is_the_default(data: COCO, caplog: pytest.LogCaptureFixture) -> None:
    line = [*DATA, "--method", "grid", "--split", "val", "--data.proposals", "of/the/data"]
    cli.main(["propose", *line])
    assert Path("of/the/data/val.sqlite").is_file()
    assert not Path("of/the/data/train.sqlite").exists()
    before = Path("of/the/data/val.sqlite").read_bytes()
    cli.main(["propose", *line])  # nothing is missing
    assert Path("of/the/data/val.sqlite").read_bytes() == before


def test_selective_search_is_the_default(data: COCO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detseg.proposals.selective_search.LONG_EDGE", 128)
    cli.main(["propose", *DATA, "--split", "val"])
    found = read("proposals/selective_search", data)
    assert proposal_recall(data.val_annotations, found)["recall70"] == 1


def model() -> FasterRCNN:
    torch.manual_seed(0)
    return FasterRCNN(
        FPN(MobileNetV2(), 16), 3, RPN(post_nms_top_n=(30, 20)), RoIHeads(box_head=TwoMLPHead(pool_size=16))
    )


def test_the_proposals_of_an_rpn_are_in_pixels_of_the_image_files(data: COCO) -> None:
    task = DetectionTask(model())
    task.data_recipe = to_config(colours(Path("colours")))
    task.data_recipe["init_args"]["transforms"][0]["init_args"].update(size=96, max_size=96)
    large = colours(Path("colours"), transforms=from_config(task.data_recipe).transforms)
    task.model.class_names, task.model.category_ids = ("red", "green", "blue"), (3, 7, 20)
    task.model.preprocessing = large.preprocessing
    checkpoint.save(task, "rpn.ckpt")
    cli.main(["propose", *DATA, "--split", "val", "--method", "rpn:rpn.ckpt"])
    found = read("proposals/rpn", data)

    detector = task.model.eval()
    for batch in large.val_dataloader():
        assert batch.image_sizes.tolist() == [[96, 96]] * len(batch.image_sizes)
        with torch.inference_mode():
            predictions = detector.rpn(detector.backbone(batch.images, batch.image_sizes), (96, 96))
            expected = rescale(
                detector.rpn.propose(predictions, batch.image_sizes, training=True),
                batch.image_sizes,
                batch.original_sizes,
            )
        for row, boxes, valid in zip(batch.image_index.tolist(), expected.boxes, expected.valid, strict=True):
            assert 0 < len(found[row]) <= 30
            assert_close_sets(boxes[valid], torch.from_numpy(found[row]))
            assert found[row].max() <= 64 + 1e-3


def assert_close_sets(a: Tensor, b: Tensor) -> None:
    """The same boxes; those of equal scores may come in another order."""
    assert len(a) == len(b)
    assert (torch.cdist(a, b).amin(dim=1) < 0.1).float().mean() > 0.95


def test_another_checkpoint_is_another_setting(data: COCO, capsys: pytest.CaptureFixture[str]) -> None:
    task = DetectionTask(model())
    task.data_recipe = to_config(colours(Path("colours")))
    large = colours(Path("colours"), transforms=from_config(task.data_recipe).transforms)
    task.model.class_names, task.model.category_ids = ("red", "green", "blue"), (3, 7, 20)
    task.model.preprocessing = large.preprocessing
    checkpoint.save(task, "rpn.ckpt")
    line = [*DATA, "--split", "val", "--method", "rpn:rpn.ckpt"]
    cli.main(["propose", *line])
    with torch.no_grad():
        next(task.model.parameters()).add_(1)
    checkpoint.save(task, "rpn.ckpt")
    with pytest.raises(SystemExit):
        cli.main(["propose", *line])
    assert "error: proposals/rpn/val.sqlite: computed by rpn:rpn.ckpt" in capsys.readouterr().err


def test_detectron2s_files_are_converted(data: COCO, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = [np.array([[n, n, n + 5, n + 6]] * 2, np.float32) for n in range(3)]
    content = {"ids": [102, 100, 101], "boxes": boxes, "objectness_logits": [np.array([1.0, 2.0])] * 3, "bbox_mode": 0}
    Path("boxes.pkl").write_bytes(pickle.dumps(content))
    cli.main(["propose", *DATA, "--split", "val", "--method", "detectron2:boxes.pkl"])
    found = read("proposals/detectron2", data)
    assert [one[0].tolist() for one in found] == [[1, 1, 6, 7], [2, 2, 7, 8], [0, 0, 5, 6]]
    with pytest.raises(SystemExit):
        cli.main(["propose", *DATA, "--split", "train", "--method", "detectron2:boxes.pkl"])
    assert "boxes.pkl: has no proposals for 1 images of colours/train, such as 103" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "--method gird",
            "--method gird: no such method; choose from selective_search, selective_search_quality",
        ),
        ("--method rpn", "--method rpn: no such method"),
        ("--method rpn:none.ckpt", "--method rpn:none.ckpt: there is no file none.ckpt"),
        ("--method rpn:colours/val/val0.png", "colours/val/val0.png: damaged, truncated, or not a checkpoint"),
        ("--method grid --jobs 0", "--jobs 0: must be at least 1"),
        ("--method grid --split test", "split (command line): must be train or val or both, not test"),
        ("--method grid --out colours/val/val0.png", "colours/val/val0.png/train.sqlite: cannot be written"),
        ("--method grid --data.rot x", "data.rot (command line): there is no such setting; did you mean data.root"),
    ],
)
def test_mistakes_are_named(data: COCO, capsys: pytest.CaptureFixture[str], line: str, message: str) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["propose", *DATA, *line.split()])
    assert end.value.code in (1, 2)
    error = capsys.readouterr().err
    assert f"error: {message}" in error
    assert "Traceback" not in error


def test_a_broken_image_stops_it_and_the_rest_waits(data: COCO, capsys: pytest.CaptureFixture[str]) -> None:
    whole = Path("colours/val/val1.png").read_bytes()
    Path("colours/val/val1.png").write_bytes(bytes(len(whole)))
    line = [*DATA, "--method", "grid", "--split", "val"]
    with pytest.raises(SystemExit):
        cli.main(["propose", *line])
    assert "error: colours/val/val1.png: not an image" in capsys.readouterr().err
    with pytest.raises(DataError, match="unfinished, 1 of 3 images"):
        read("proposals/grid", data)
    Path("colours/val/val1.png").write_bytes(whole)
    cli.main(["propose", *line])
    assert "continuing, 1 of 3 images are done" in capsys.readouterr().err
    assert len(read("proposals/grid", data)) == 3
