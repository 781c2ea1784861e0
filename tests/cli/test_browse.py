"""`detseg browse`: what it draws is what the data gives to a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detseg import cli
from tests.check.test_checking import coco, write
from tests.check.test_page import Elements
from tests.data import made

CONFIG = """\
model:
  class_path: MaskRCNN
data:
  class_path: COCO
  init_args:
    root: data
    transforms:
      - class_path: Resize
        init_args: {size: 96, max_size: 128}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = coco(Path("data"))
    for annotation in content["annotations"]:
        annotation["segmentation"] = [[4, 6, 24, 6, 24, 36, 4, 36]]
    for number in range(4):
        Image.new("RGB", (64, 48), (10, 20, 30 + 50 * number)).save(f"data/images/{number}.png")
    write(Path("data"), content)
    Path("my.yaml").write_text(CONFIG)
    Path("latin.yaml").write_bytes(b"data: caf\xe9\n")


def test_a_folder_of_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["browse", "my.yaml", "--out", "pictures", "--count", "2", "--seed", "1"])
    assert "pictures: 2 of 3 images of the train split" in capsys.readouterr().err
    first, second = (np.asarray(Image.open(file)).astype(int) for file in sorted(Path("pictures").iterdir()))
    assert first.shape == second.shape == (96, 128, 3)  # twice as large
    for picture in (first, second):
        outside, inside = picture[85, 120], picture[50, 20]
        assert (np.abs(outside[:2] - (10, 20)) < 10).all()
        assert np.abs(inside - outside).max() > 60  # tinted by the mask
        edge = np.abs(picture[40, 44:53] - outside).max(axis=1)
        assert edge.max() > 120  # the right edge of the box, in the colour of the class


def test_the_same_seed_shows_the_same(tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        cli.main(["browse", "data", "--out", name, "--data.transforms.Resize.crop", "1.0"])
    assert Path("a.html").read_text() == Path("b.html").read_text()
    elements = Elements(Path("a.html").read_text())
    assert len([tag for tag, _ in elements.tags if tag == "figure"]) == 3
    assert "of 64x48" in elements.text
    cli.main(["browse", "my.yaml", "--split", "val", "--data.transforms.Resize.size", "48", "--out", "new/c.html"])
    assert ".png, 64x48 of 64x48" in Path("new/c.html").read_text()


@pytest.mark.parametrize("what", [["maps"], ["fcn_shapes.yaml", "--data", "maps"]], ids=["alone", "configured"])
def test_maps_of_labels(what: list[str]) -> None:
    (Path("maps") / "masks").mkdir(parents=True)
    for seed, name in enumerate("abc"):
        made.image(Path("maps/images") / f"{name}.png", seed=seed)
        Image.new("L", (64, 48), 1).save(f"maps/masks/{name}.png")
    Path("maps/classes.txt").write_text("sky\nroad\n")
    cli.main(["browse", *what, "--out", "maps.html", "--count", "1"])
    elements = Elements(Path("maps.html").read_text())
    assert [attributes["data-classes"] for tag, attributes in elements.tags if tag == "figure"] == ['["road"]']


@pytest.mark.parametrize("other", [["--data", "other"], ["--data=other"]], ids=["two words", "one word"])
def test_another_folder_with_the_settings_of_a_configuration(
    other: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("data").rename("other")
    cli.main(["browse", "my.yaml", *other, "--out", "other.html"])
    assert "other: taken for a data set in the format COCO" in capsys.readouterr().err
    assert Elements(Path("other.html").read_text()).text.count(".png, 128x96 of 64x48") == 3


def test_a_file_of_other_data(capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["--data", "data/shapes.yaml", "--data.train=3", "--data.val=2", "--count=1"]
    cli.main(["browse", "my.yaml", *changes, "--out", "shapes.html"])  # the file is one of those that come with detseg
    assert "shapes.html: 1 of 3 images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.yaml"], "none.yaml: no such file"),
        (["none"], "none: name a folder of data, or a YAML file"),
        ([], "must be set"),
        (["trainer/gpu.yaml"], "has neither data nor the class_path"),
        (["data", "--count", "0"], "--count 0: must be at least 1"),
        (["data", "--out", "data/labels.json"], "data/labels.json: is a file"),
        (["data", "--out", "my.yaml/new"], "--out my.yaml/new: cannot be made a folder: Not a directory"),
        (["data/shape_crops.yaml"], "ShapeCrops has neither boxes nor maps"),
    ],
)
def test_what_is_refused(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["browse", *arguments])
    assert said in capsys.readouterr().err


def test_a_data_file_that_is_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="1"):
        cli.main(["browse", "latin.yaml"])
    assert "latin.yaml: not a text in UTF-8" in capsys.readouterr().err
