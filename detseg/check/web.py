"""Pages that hold all they show: drawings as SVG, pictures in the text itself. They ask no network for anything."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from detseg.draw import ImageArray

BAR, GAP, NAME, ROOM, VALUE = 16, 6, 150, 260, 110  # pixels of a chart of bars: two heights and three widths
PLOT = (480, 150)  # width and height of a histogram
QUALITY = 80  # of the pictures
SIDE = 480  # pixels of their longer side

# Nothing but what stands in the page itself may be loaded or run by it.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --line: #8885; --bar: #3577b5; }
:root { --error: #c0392b; --warning: #b9770e; --note: #607d8b; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1240px; margin: 0 auto; padding: 20px; }
h1 { font-size: 24px; margin: 0 0 4px; }
h2 { font-size: 19px; margin: 30px 0 8px; }
h3 { font-size: 15px; margin: 18px 0 6px; }
table { border-collapse: collapse; }
td, th { padding: 3px 12px 3px 0; text-align: right; border-bottom: 1px solid var(--line); }
td:first-child, th:first-child { text-align: left; }
.charts { display: flex; flex-wrap: wrap; gap: 16px 36px; align-items: flex-start; }
svg text { font: 12px system-ui, sans-serif; fill: currentColor; }
svg rect { fill: var(--bar); }
svg line { stroke: #888; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); gap: 12px; }
figure { margin: 0; }
figure img { width: 100%; height: 190px; object-fit: contain; background: #8882; cursor: zoom-in; }
figcaption { font-size: 12px; overflow-wrap: anywhere; }
.error, .warning, .note { color: white; border-radius: 4px; padding: 1px 7px; font-size: 13px; }
.error { background: var(--error); }
.warning { background: var(--warning); }
.note { background: var(--note); }
details { margin: 4px 0; }
summary { cursor: pointer; }
li { overflow-wrap: anywhere; font-size: 13px; }
input, select { font: inherit; padding: 3px 6px; margin: 0 8px 10px 0; }
dialog { border: 0; padding: 8px; max-width: 96vw; }
dialog img { max-width: 92vw; max-height: 84vh; min-width: 480px; object-fit: contain; }
"""
SCRIPT = """
const large = document.querySelector("dialog");
document.addEventListener("click", event => {
  if (event.target.closest("dialog")) return large.close();
  const figure = event.target.closest("figure");
  if (!figure || event.target.tagName !== "IMG") return;
  large.querySelector("img").src = event.target.src;
  large.querySelector("p").textContent = figure.querySelector("figcaption").textContent;
  large.showModal();
});
const words = document.querySelector("#words");
const one = document.querySelector("#class");
function filter() {
  let left = 0;
  for (const figure of document.querySelectorAll("#browser figure")) {
    const fits = (!one.value || JSON.parse(figure.dataset.classes).includes(one.value))
      && figure.textContent.toLowerCase().includes(words.value.toLowerCase());
    figure.hidden = !fits;
    left += fits;
  }
  document.querySelector("#count").textContent = left + " shown";
}
if (words) {
  words.addEventListener("input", filter);
  one.addEventListener("change", filter);
  filter();
}
"""


class Shown(NamedTuple):
    """A picture of a page, its text, and the classes that it shows."""

    picture: str  # a data URI
    text: str
    classes: tuple[str, ...] = ()


def document(title: str, body: Iterable[str]) -> str:
    """A whole page."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
            *body,
            '<dialog><img alt="the picture, larger"><p></p></dialog>',
            f"<script>{SCRIPT}</script></body></html>",
            "",
        ]
    )


def shrunk(picture: ImageArray, side: int = SIDE) -> ImageArray:
    """A picture whose longer side is at most ``side``."""
    scale = min(1.0, side / max(picture.shape[:2]))
    size = max(1, round(scale * picture.shape[1])), max(1, round(scale * picture.shape[0]))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def data_uri(picture: ImageArray) -> str:
    """A picture as a JPEG in a data: URI."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def gallery(pictures: Iterable[Shown]) -> str:
    """Pictures in a grid; a click makes one large."""
    figures = (
        f'<figure data-classes="{escape(json.dumps(one.classes))}"><img loading="lazy" src="{one.picture}" '
        f'alt="{escape(one.text)}"><figcaption>{escape(one.text)}</figcaption></figure>'
        for one in pictures
    )
    return f'<div class="pictures">{"".join(figures)}</div>'


def browser(pictures: Sequence[Shown]) -> str:
    """A gallery with a choice of classes and of names of files."""
    classes = sorted({name for one in pictures for name in one.classes})
    options = "".join(f'<option value="{escape(name)}">{escape(name)}</option>' for name in classes)
    return (
        f'<div><select id="class"><option value="">all classes</option>{options}</select>'
        '<input id="words" placeholder="part of a file name"><span id="count"></span></div>'
        f'<div id="browser">{gallery(pictures)}</div>'
    )


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head."""
    head, *rest = rows
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rest)
    return f"<table><tr>{cells}</tr>{lines}</table>"


def bars(title: str, values: Sequence[tuple[str, float, str]]) -> str:
    """A chart of horizontal bars: name, value, and the value as text."""
    most = max((value for _, value, _ in values), default=0) or 1
    height = len(values) * (BAR + GAP)
    lines = []
    for row, (name, value, said) in enumerate(values):
        top, width = row * (BAR + GAP), ROOM * value / most
        short = name if len(name) <= 22 else f"{name[:21]}…"
        lines.append(
            f'<text x="{NAME - 6}" y="{top + 13}" text-anchor="end"><title>{escape(name)}</title>{escape(short)}</text>'
            f'<rect x="{NAME}" y="{top}" width="{width:.1f}" height="{BAR}"/>'
            f'<text x="{NAME + width + 5:.1f}" y="{top + 13}">{escape(said)}</text>'
        )
    return _chart(title, NAME + ROOM + VALUE, height, lines)


def histogram(title: str, values: ArrayLike, edges: NDArray[np.float64], unit: str = "") -> str:
    """How many ``values`` lie between ``edges``; what is beyond the last ones counts to them."""
    numbers = np.asarray(values, dtype=np.float64)
    counts = np.histogram(numbers.clip(edges[0], np.nextafter(edges[-1], -np.inf)), edges)[0]
    width, height = PLOT
    step, most = width / len(counts), max(int(counts.max(initial=0)), 1)
    lines = []
    for place, count in enumerate(counts.tolist()):
        tall = height * count / most
        lines.append(
            f'<rect x="{place * step + 1:.1f}" y="{height - tall + 14:.1f}" width="{step - 2:.1f}" height="{tall:.1f}">'
            f"<title>{_tick(edges[place])} to {_tick(edges[place + 1])}: {count:,}</title></rect>"
        )
    for place in range(0, len(edges), max(1, len(edges) // 8)):
        lines.append(
            f'<text x="{place * step:.1f}" y="{height + 30}" text-anchor="middle">{_tick(edges[place])}</text>'
        )
    lines.append(f'<line x1="0" x2="{width}" y1="{height + 14}" y2="{height + 14}"/>')
    lines.append(
        f'<text x="{width}" y="10" text-anchor="end">highest bar {most:,}{escape(unit and ", " + unit)}</text>'
    )
    return _chart(title, width, height + 36, lines)


def _tick(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def _chart(title: str, width: float, height: float, lines: Iterable[str]) -> str:
    box = f"-16 0 {width + 32} {height}"
    return (
        f'<div><h3>{escape(title)}</h3><svg role="img" aria-label="{escape(title)}" viewBox="{box}" '
        f'width="{width + 32}" height="{height}">{"".join(lines)}</svg></div>'
    )
