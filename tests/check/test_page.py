"""The page of a check is self-contained and escapes all names of the data."""

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
from jinja2 import Environment, PackageLoader
from PIL import Image

from detseg import cli
from detseg.check.rendering import BarChart, data_uri, histogram
from tests.check.test_checking import coco, write

EVIL = '"><script>alert(1)</script>'


class Elements(HTMLParser):
    """All elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

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
    assert {"link", "iframe", "base", "a"}.isdisjoint(tag for tag, _ in elements.tags)
    assert [tag for tag, _ in elements.tags].count("script") == 1  # none that a name has smuggled in
    pictures = [attributes for tag, attributes in elements.tags if tag == "img" and "src" in attributes]
    assert len(pictures) == 2 + 3  # of two issues, and the images that can be read
    for attributes in pictures:
        head, _, content = str(attributes["src"]).partition(",")
        assert head == "data:image/jpeg;base64"
        Image.open(io.BytesIO(base64.b64decode(content))).load()
    classes = [json.loads(str(attributes["data-classes"])) for tag, attributes in elements.tags if tag == "figure"]
    assert classes == [[], [], [], [EVIL], [EVIL]]
    assert "3 of 3 images" in elements.text
    assert "images/0.png annotation 0: box (70, 6, 90, 36) lies outside of its image" in elements.text


def test_an_issue_shows_the_image_of_its_split(tmp_path: Path) -> None:
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
    shown, *_ = (str(tag["src"]) for name, tag in elements.tags if name == "img" and "src" in tag)
    red, _, blue = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown.partition(",")[2]))))[0, 0].tolist()
    assert red > 200 > 50 > blue


def test_it_works_in_a_browser(html: Path, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium to look at the page with")
    options = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom")
    done = subprocess.run([browser, *options, html.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert "3 shown" in done.stdout  # written by the script


def rendered(macro: str, chart: object) -> str:
    """A chart as a page shows it."""
    environment = Environment(loader=PackageLoader("detseg.check"), autoescape=True)
    source = f'{{% from "macros.html.j2" import {macro} %}}{{{{ {macro}(chart) }}}}'
    return environment.from_string(source).render(chart=chart)


def test_a_histogram_counts() -> None:
    chart = histogram("sizes", [-1, 0.5, 1.5, 1.6, 99], np.array([0.0, 1, 2, 3]), "boxes")
    page = rendered("histogram", chart)
    assert re.findall(r'title="(.+?)"', page) == ["0 to 1: 2", "1 to 2: 2", "2 to 3: 1"]
    assert re.findall(r"height: ([\d.]+)%", page) == ["100.0", "100.0", "50.0"]
    assert "highest bar 2 boxes" in page


def test_bars_are_as_long_as_their_values() -> None:
    page = rendered("bar_chart", BarChart("classes", [("cat", 30, "30"), ("<dog>", 10, "10")]))
    assert [float(width) for width in re.findall(r"width: ([\d.]+)%", page)] == [70, 23.3]
    assert "&lt;dog&gt;" in page


@pytest.mark.parametrize("chart", [BarChart("classes", []), BarChart("classes", [("cat", 0, "0")])])
def test_bars_without_a_value(chart: BarChart) -> None:
    assert "classes" in rendered("bar_chart", chart)


def test_a_picture_in_the_text() -> None:
    picture = np.full((20, 30, 3), (200, 30, 30), np.uint8)
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(data_uri(picture).partition(",")[2]))))
    assert np.abs(read.astype(int) - picture).max() < 8
