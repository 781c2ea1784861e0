"""The page of a check holds all that it shows, and shows what is in the data, whatever that is called."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detseg import cli
from detseg.check.web import bars, data_uri, histogram
from tests.check.test_checking import coco, write

EVIL = '"><script>alert(1)</script>'


class Elements(HTMLParser):
    """All elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def html(tmp_path: Path) -> Path:
    """The page of a set with a box outside of its image, a broken image and a class of an evil name."""
    root = tmp_path / "data"
    content = coco(root, bbox=[70, 6, 20, 30])
    content["categories"][1]["name"] = EVIL
    (root / "images" / "2.png").write_text("no image")
    write(root, content)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["check", str(root), "--html", str(tmp_path / "new" / "page.html")])
    return tmp_path / "new" / "page.html"


def test_it_holds_all_it_shows(html: Path) -> None:
    page = html.read_text()
    elements = Elements(page)
    assert not re.search(r"https?:|file:|url\(|@import", page)
    assert {"link", "iframe", "base", "a"}.isdisjoint(tag for tag, _ in elements.found)
    assert [tag for tag, _ in elements.found].count("script") == 1  # none that a name has smuggled in
    pictures = [attributes for tag, attributes in elements.found if tag == "img" and "src" in attributes]
    assert len(pictures) == 2 + 3  # of two faults, and the images that can be read
    for attributes in pictures:
        head, _, content = str(attributes["src"]).partition(",")
        assert head == "data:image/jpeg;base64"
        Image.open(io.BytesIO(base64.b64decode(content))).load()
    classes = [json.loads(str(attributes["data-classes"])) for tag, attributes in elements.found if tag == "figure"]
    assert classes == [[], [], [], [EVIL], [EVIL]]
    assert "3 of 3 images" in elements.text
    assert "images/0.png annotation 0: box (70, 6, 90, 36) lies outside of its image" in elements.text


def test_a_fault_shows_the_image_of_its_part(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for part, colour in (("train", (250, 0, 0)), ("val", (0, 0, 250))):
        for folder in ("images", "labels"):
            (root / folder / part).mkdir(parents=True)
        Image.new("RGB", (64, 48), colour).save(root / "images" / part / "a.png")
        (root / "labels" / part / "a.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    with (root / "labels" / "train" / "a.txt").open("a") as labels:
        labels.write("0 0.5 wide 0.25 0.5\n")
    (root / "data.yaml").write_text("names: [cat]")
    with pytest.raises(SystemExit, match="2"):
        cli.main(["check", str(root), "--html", str(tmp_path / "page.html")])
    elements = Elements((tmp_path / "page.html").read_text())
    shown, *_ = (str(tag["src"]) for name, tag in elements.found if name == "img" and "src" in tag)
    red, _, blue = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown.partition(",")[2]))))[0, 0].tolist()
    assert red > 200 > 50 > blue


def test_it_works_in_a_browser(html: Path, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium to look at the page with")
    options = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom")
    done = subprocess.run([browser, *options, html.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert "3 shown" in done.stdout  # written by the script


def test_a_histogram_counts() -> None:
    drawn = histogram("sizes", [-1, 0.5, 1.5, 1.6, 99], np.array([0.0, 1, 2, 3]))
    assert re.findall(r"<title>(.+?)</title>", drawn) == ["0 to 1: 2", "1 to 2: 2", "2 to 3: 1"]
    heights = [float(height) for height in re.findall(r'height="([\d.]+)"><title>', drawn)]
    assert heights == [150, 150, 75]


def test_bars_are_as_long_as_their_values() -> None:
    drawn = bars("classes", [("cat", 30, "30"), ("<dog>", 10, "10")])
    assert [float(width) for width in re.findall(r'<rect [^>]*width="([\d.]+)"', drawn)] == [260, 86.7]
    assert "&lt;dog&gt;" in drawn


def test_a_picture_in_the_text() -> None:
    picture = np.full((20, 30, 3), (200, 30, 30), np.uint8)
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(data_uri(picture).partition(",")[2]))))
    assert np.abs(read.astype(int) - picture).max() < 8
