"""`detseg predict` with the checkpoint of a tiny training."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detseg import cli
from detseg.inference.result_files import ResultsWriter
from tests.cli.conftest import BEST, Refused, entries
from tests.colours import IDS
from tests.ranks import on_two_ranks


@pytest.fixture(autouse=True)
def here(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_run)


def test_prediction_draws_pictures_and_writes_objects(capsys: pytest.CaptureFixture[str]) -> None:
    large = Image.open("colours/val/val2.png").resize((192, 96))
    Path("photos").mkdir()
    large.save("photos/large.png")
    line = "photos colours/val/val0.png --checkpoint runs/tiny/best.ckpt --out drawn --threshold 0"
    cli.main(["predict", *line.split()])
    found = entries("drawn")
    assert [one["file"] for one in found] == ["photos/large.png", "colours/val/val0.png"]
    assert Image.open("drawn/large.png").size == (192, 96)
    for one in found:
        assert len(one["classes"]) == len(one["scores"]) == len(one["boxes"]) > 0
        assert one["scores"] == sorted(one["scores"], reverse=True)
        assert set(one["classes"]) <= set(IDS)
    boxes = np.array(found[0]["boxes"])
    assert boxes.min() >= 0
    assert (boxes[:, 2:] <= (192.01, 96.01)).all()
    assert boxes[:, 2].max() > 64  # in pixels of the file, not of what the network sees


def test_prediction_goes_on_after_a_broken_image(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mixed").mkdir()
    Path("mixed/broken.jpg").write_bytes(b"no image")
    Image.open("colours/val/val1.png").save("mixed/whole.png")
    with pytest.raises(SystemExit) as ended:
        cli.main(["predict", "mixed/*", "--checkpoint", "runs/tiny/best.ckpt", "--out", "from_mixed"])
    assert ended.value.code == 1
    printed = capsys.readouterr().err
    assert "mixed/broken.jpg: not an image" in printed
    assert "error: 1 of 2 images could not be read" in printed
    broken, whole = entries("from_mixed")
    assert broken["file"] == "mixed/broken.jpg"
    assert "not an image" in broken["error"]
    assert (whole["file"], whole["size"]) == ("mixed/whole.png", [64, 64])
    assert "error" not in whole


def test_prediction_does_not_overwrite_images(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = Path("colours/val/val0.png").read_bytes()
    with pytest.raises(SystemExit):
        cli.main(["predict", "colours/val/val0.png", "--checkpoint", "runs/tiny/best.ckpt", "--out", "colours/val"])
    assert "name another folder" in capsys.readouterr().err
    assert Path("colours/val/val0.png").read_bytes() == before


def test_images_are_given_without_their_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["predict", "--checkpoint", "runs/tiny/best.ckpt", "--images", "colours/val"])
    assert "error: images (command line): is given without its name" in capsys.readouterr().err


def test_prediction_without_images(capsys: pytest.CaptureFixture[str]) -> None:
    for source in ("absent.jpg", "absent/*.jpg", "configs"):
        with pytest.raises(SystemExit):
            cli.main(["predict", source, "--checkpoint", "runs/tiny/best.ckpt"])
        assert f"error: {source}: no" in capsys.readouterr().err


def test_each_name_in_a_list_is_one_image(refused: Refused) -> None:
    Path("list.txt").write_text("missing.png\ncolours/val\n*.png\ncolours/val/val0.png\n")
    line = "list.txt --checkpoint runs/tiny/best.ckpt --out listed --draw none"
    error = refused("predict", *line.split())
    assert "error: missing.png: cannot read this image: No such file" in error
    assert "error: 3 of 4 images could not be read" in error
    assert {one["file"]: "error" in one for one in entries("listed")} == {
        **dict.fromkeys(("missing.png", "colours/val", "*.png"), True),
        "colours/val/val0.png": False,
    }


def test_a_full_disk_names_the_folder(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")  # without a name, as of any write

    monkeypatch.setattr(ResultsWriter, "append", fail)
    error = refused("predict", "colours/val", "--checkpoint", BEST, "--out", "full")
    assert "error: --out full: cannot be written: No space left on device; make room there" in error


LINES = [
    ("--module nope colours/val", "--module nope: No module named 'nope'"),
    ("--device foo colours/val", "--device foo: there is no such device here; there is cpu"),
    ("--device cuda:99 colours/val", "--device cuda:99: there is no such device here; there is cpu"),
    ("--out file colours/val", "--out file: cannot be made a folder"),
    ("--threshold 7 colours/val", "--threshold 7: must be between 0 and 1"),
    ("--draw -1 colours/val", "--draw -1: must be none, all or a number"),
    ("--draw some colours/val", "draw (command line): must be a whole number or none or all, not some"),
    ("--shard 3/2 colours/val", "--shard 3/2: must be one of several equal parts"),
    ("--devices 0 colours/val", "--devices 0: must be at least 1"),
    ("--num_workers -1 colours/val", "--num_workers -1: must be at least 0"),
    ("--tile 8 colours/val", "--tile 8: must be a whole number of pixels, at least 32"),
    ("--scales [1e9] colours/val", "--scales [1000000000.0]: must be one factor or several, above 0, up to 16"),
    ("--batch_size 0 colours/val", "--batch_size 0: must be at least 1"),
    ("--as YOLO --shard 1/2 colours/val", "--as YOLO: a shard has no other format; give --as to `detseg merge`"),
]


@pytest.mark.parametrize(("line", "said"), LINES, ids=[line for line, _ in LINES])
def test_a_wrong_line(refused: Refused, line: str, said: str) -> None:
    Path("file").write_text("")
    assert f"error: {said}" in refused("predict", "--checkpoint", BEST, *line.split())


def test_prediction_of_nothing(refused: Refused) -> None:
    said = refused("predict", "--checkpoint", BEST)
    assert "images must be set" in said
    assert "--config" not in said


def test_every_picture_has_a_name_of_its_own() -> None:
    for number, place in enumerate(("a/s", "b/s", "c")):
        Path(place).mkdir(parents=True)
        Image.new("RGB", (64, 50 + number)).save(Path(place, "x.png"))
    Image.new("RGB", (64, 53)).save("c/x-2.png")
    Image.new("RGB", (64, 54)).save("noext", format="png")
    images = ["a/s/x.png", "b/s/x.png", str(Path("c/x.png").resolve()), "c/x-2.png", "noext"]
    cli.main(["predict", *images, "--checkpoint", BEST, "--out", "named"])
    found = entries("named")
    assert [one["picture"] for one in found] == ["x.png", "x-2.png", "x-3.png", "x-2-2.png", "noext.png"]
    assert [Image.open(Path("named", one["picture"])).height for one in found] == [50, 51, 52, 53, 54]


def test_an_interrupted_run_is_resumed(refused: Refused, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["predict", "colours/val", "--checkpoint", BEST, "--out", "resumed", "--threshold", "0", "--draw", "1"]
    cli.main(command)
    whole = entries("resumed")
    assert [("picture" in one) for one in whole] == [True, False, False]
    lines = Path("resumed/predictions.jsonl").read_bytes()
    Path("resumed/predictions.jsonl").unlink()
    Path("resumed/predictions.jsonl.part0").write_bytes(lines[: len(lines) // 2])
    assert "1 images of an interrupted run are there; continue it with `--resume true`" in refused(*command)
    cli.main([*command, "--resume", "true"])
    assert entries("resumed") == whole
    assert "3 images, " in capsys.readouterr().err
    assert sorted(path.name for path in Path("resumed").iterdir()) == [
        "predictions.jsonl",
        "predictions.settings.json",
        "val0.png",
    ]


def test_shards_and_ranks_give_the_results_of_one_process() -> None:
    command = ["predict", "colours/train", "colours/val", "--checkpoint", BEST, "--threshold", "0", "--draw", "none"]
    cli.main([*command, "--out", "whole"])
    for number in (1, 2, 3):
        cli.main([*command, "--out", "shards", "--shard", f"{number}/3"])
    cli.main(["merge", "shards", "--as", "COCO"])
    on_two_ranks(cli.main, [*command, "--out", "ranks"])
    whole = sorted(entries("whole"), key=lambda one: one["file"])
    assert len(whole) == 8
    Path(
        "killed"
    ).mkdir()  # as three ranks leave it that are killed: the first without a line, the second in the middle
    shutil.copy("whole/predictions.settings.json", "killed")
    lines = [json.dumps(one).encode() + b"\n" for one in whole]
    for rank, content in enumerate((b"", lines[0] + lines[1][:-9], lines[2] + lines[3])):
        Path(f"killed/predictions.jsonl.part{rank}").write_bytes(content)
    on_two_ranks(cli.main, [*command, "--out", "killed", "--resume", "true"])
    for folder in ("shards", "ranks", "killed"):
        assert sorted(entries(folder), key=lambda one: one["file"]) == whole
        assert not list(Path(folder).glob("*.part*"))
    coco = json.loads(Path("shards/COCO/annotations/instances.json").read_text())
    assert len(coco["annotations"]) == sum(len(one["boxes"]) for one in whole)
