"""`detseg predict` with the checkpoint of a tiny training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detseg import cli
from tests.cli.conftest import BEST, Refused
from tests.colours import IDS


@pytest.fixture(autouse=True)
def here(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_run)


def test_prediction_draws_pictures_and_writes_objects(capsys: pytest.CaptureFixture[str]) -> None:
    large = Image.open("colours/val/val2.png").resize((192, 96))
    Path("photos").mkdir()
    large.save("photos/large.png")
    line = "photos colours/val/val0.png --checkpoint runs/tiny/best.ckpt --out drawn --threshold 0"
    cli.main(["predict", *line.split()])
    found = json.loads(Path("drawn/predictions.json").read_text())
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
    assert [one["file"] for one in json.loads(Path("from_mixed/predictions.json").read_text())] == ["mixed/whole.png"]


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


LINES = [
    ("--module nope colours/val", "--module nope: No module named 'nope'"),
    ("--device foo colours/val", "--device foo: there is no such device here; there is cpu"),
    ("--device cuda:99 colours/val", "--device cuda:99: there is no such device here; there is cpu"),
    ("--out file colours/val", "--out file: cannot be made a folder"),
    ("--threshold 7 colours/val", "--threshold 7: must be between 0 and 1"),
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
    found = json.loads(Path("named/predictions.json").read_text())
    assert [one["picture"] for one in found] == ["x.png", "x-2.png", "x-3.png", "x-2-2.png", "noext.png"]
    assert [Image.open(Path("named", one["picture"])).height for one in found] == [50, 51, 52, 53, 54]
