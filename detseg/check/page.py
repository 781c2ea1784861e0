"""The report of a check as a page: figures as charts, faults with pictures, and a browser of images with labels."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from detseg.check.checking import CheckResult
from detseg.check.figures import Figures, covered
from detseg.check.summary import part_rows, short
from detseg.check.web import SIDE, Shown, bars, browser, data_uri, document, gallery, histogram, shrunk, table
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.images import SUFFIXES, read_image
from detseg.data.annotations.issues import KINDS, Issue, IssueCollector
from detseg.draw import draw, overlay
from detseg.errors import DataError

CLASSES = 20  # in the chart
OF_KIND = 12  # pictures of faults of one kind
LISTED = 500  # faults of one kind
BROWSED = 120  # images in the browser
MARK = (255, 40, 40)
SHOWS = 10  # pixels; a box that is smaller gets so much room on each side
OPEN = 8  # faults that are listed without a click


def page(checked: CheckResult, found: Figures, side: int) -> str:
    """The whole page as HTML. ``side`` is the short edge of the images that the anchors were compared in."""
    counts = {
        severity: sum(fault.severity == severity for fault in checked.faults)
        for severity in ("error", "warning", "note")
    }
    badges = " ".join(f'<span class="{name}">{count} {name}s</span>' for name, count in counts.items())
    looked = "every image was decoded" if checked.decoded else "heads of images alone were read"
    return document(
        f"Check of {checked.root.name}",
        [
            f"<h1>{escape(checked.root.name)}</h1>",
            f"<p>{escape(checked.format)}, {escape(', '.join(checked.parts))}; {looked}. {badges}</p>",
            table(list(part_rows(checked))),
            "<h2>Figures</h2>",
            f'<div class="charts">{"".join(_charts(checked, found, side))}</div>',
            "<h2>Faults</h2>",
            *(_faults(checked) if checked.faults else ["<p>None.</p>"]),
            "<h2>Images and labels</h2>",
            *_browser(checked),
        ],
    )


def _charts(checked: CheckResult, found: Figures, side: int) -> Iterator[str]:
    objects = any(isinstance(part, DetectionAnnotations) for part in checked.parts.values())
    totals = sorted(((sum(parts.values()), name) for name, parts in checked.counts.items()), reverse=True)
    more = f", the first {CLASSES} of {len(totals)}" if len(totals) > CLASSES else ""
    unit = "Objects" if objects else "Pixels"
    yield bars(f"{unit} of each class{more}", [(name, count, f"{count:,}") for count, name in totals[:CLASSES]])
    if not len(found.sides):
        return
    yield histogram("Objects of an image", found.per_image, _edges(found.per_image.max(initial=1)), "images")
    yield histogram("Side of a box, the root of its area, in pixels", found.sides, np.geomspace(1, 2048, 23), "boxes")
    yield histogram("Width over height of a box", found.shapes, np.geomspace(1 / 8, 8, 25), "boxes")
    yield histogram(f"IoU with the best anchor at a short edge of {side}", found.best, np.linspace(0, 1, 21), "boxes")
    shares = [
        (name, share, f"{100 * share:.1f} % of {count:,}") for name, (count, share) in covered(found).items() if count
    ]
    yield bars("Boxes with an anchor of IoU 0.5 or more", shares)


def _edges(most: int) -> NDArray[np.float64]:
    """Edges between whole numbers from 0 on, at most 30."""
    step = -(-(int(most) + 1) // 30)
    return np.arange(0, most + step + 1, step, dtype=np.float64)


def _faults(checked: CheckResult) -> Iterator[str]:
    for kind, (severity, title) in KINDS.items():
        faults = checked.of_kind(kind)
        if not faults:
            continue
        yield f'<h3><span class="{severity}">{severity}</span> {len(faults)} {escape(title)} <code>{kind}</code></h3>'
        seen_as = [(fault, Path(fault.image or fault.file)) for fault in faults if kind != "image-empty"]
        pictured = [(fault, path) for fault, path in seen_as if path.suffix.lower() in SUFFIXES]
        if pictured:
            yield gallery(_pictured(checked, fault, path) for fault, path in pictured[:OF_KIND])
        more = f", the first {LISTED} of {len(faults)}" if len(faults) > LISTED else ""
        seen = f"; pictures of the first {OF_KIND} above" if len(pictured) > OF_KIND else ""
        items = "".join(f"<li>{escape(short(checked, fault))}</li>" for fault in faults[:LISTED])
        state = "" if pictured or len(faults) > OPEN else " open"
        yield f"<details{state}><summary>list{more}{seen}</summary><ul>{items}</ul></details>"


def _pictured(checked: CheckResult, fault: Issue, path: Path) -> Shown:
    """The image of a fault, with its box in red; one that cannot be read is grey."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (2 * SIDE, 2 * SIDE))
            scale = SIDE / max(image.size)
            size = image.size
            pixels = image.convert("RGB").resize([max(1, round(scale * length)) for length in size])
            factor = pixels.width / _stored(path)[0]
    except Exception:  # whatever it is, it is what the fault is about
        pixels, factor = Image.new("RGB", (SIDE, SIDE * 3 // 4), (110, 110, 110)), 1.0
        ImageDraw.Draw(pixels).text(
            (SIDE / 2, SIDE * 3 / 8), "cannot be read", fill=(230, 230, 230), anchor="mm", font_size=30
        )
    if fault.box is not None:
        pixels = _marked(pixels, np.array(fault.box) * factor)
    return Shown(data_uri(np.asarray(pixels)), short(checked, fault))


def _stored(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def _marked(image: Image.Image, box: NDArray[np.float64]) -> Image.Image:
    """Draw a box on an image; where it lies beyond, there is grey, up to the size of the image."""
    width, height = image.size
    x1, y1, x2, y2 = box.clip((-width, -height) * 2, (2 * width, 2 * height) * 2)
    left, top = round(min(0, x1, x2)), round(min(0, y1, y2))
    right, bottom = round(max(width, x1, x2)), round(max(height, y1, y2))
    margin = 4 if (left, top, right, bottom) != (0, 0, width, height) else 0
    sheet = Image.new("RGB", (right - left + 2 * margin, bottom - top + 2 * margin), (110, 110, 110))
    sheet.paste(image, (margin - left, margin - top))
    places = [min(x1, x2) - left, min(y1, y2) - top, max(x1, x2) - left, max(y1, y2) - top]
    room = (-SHOWS, -SHOWS, SHOWS, SHOWS) if min(abs(x2 - x1), abs(y2 - y1)) < SHOWS else (-2, -2, 2, 2)
    grown = [value + margin + change for value, change in zip(places, room, strict=True)]
    ImageDraw.Draw(sheet).rectangle(grown, outline=MARK, width=4)
    return sheet


def _browser(checked: CheckResult) -> Iterator[str]:
    images = [
        (split, row)
        for split, part in checked.parts.items()
        for row in np.flatnonzero(checked.sizes[split].all(axis=1))
    ]
    chosen = [images[place] for place in np.linspace(0, len(images) - 1, min(BROWSED, len(images))).round().astype(int)]
    shown = [one for split, row in chosen if (one := _labelled(checked, split, int(row)))]
    yield f"<p>{len(shown)} of {len(images)} images, evenly spread over the set; a click makes one large.</p>"
    yield browser(shown)


def _labelled(checked: CheckResult, split: str, row: int) -> Shown | None:
    """An image with its labels drawn; None if it cannot be read after all."""
    part = checked.parts[split]
    path = part.path(row)
    name = f"{split}: {path.relative_to(checked.root) if path.is_relative_to(checked.root) else path}"
    try:
        if not isinstance(part, DetectionAnnotations):
            labels = part.labels(row, IssueCollector())
            picture = overlay(read_image(path, (labels.shape[0], labels.shape[1])), labels, part.classes)
            numbers = np.flatnonzero(np.bincount(labels.ravel(), minlength=256)[: len(part.classes)])
            return Shown(data_uri(shrunk(picture)), name, tuple(part.classes[number] for number in numbers))
        height, width = part.sizes[row].tolist()
        image = read_image(path, (height, width))
    except DataError:
        return None
    objects = part.objects(row)
    small = shrunk(image)
    scale = np.tile([small.shape[1] / width, small.shape[0] / height], 2)
    masks = () if part.masks is None else part.masks.draw(np.arange(objects.start, objects.stop), height, width)
    sized = (cv2.resize(mask.astype(np.uint8), small.shape[1::-1]) > 0 for mask in masks)
    picture = draw(small, part.boxes[objects] * scale, part.labels[objects], part.classes, masks=sized)
    classes = tuple(sorted({part.classes[label] for label in part.labels[objects]}))
    return Shown(data_uri(picture), f"{name}, {objects.stop - objects.start} objects", classes)
