"""HTML page of a check: statistics as charts, issues with images, and a browser of images with their labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from detseg.check.checking import CheckResult
from detseg.check.rendering import LONG_EDGE, BarChart, Histogram, PageImage, data_uri, histogram, render, shrink
from detseg.check.statistics import BoxStatistics, anchor_coverage
from detseg.check.summary import relative, split_table
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.images import SUFFIXES, open_image
from detseg.data.annotations.issues import KINDS, Issue, IssueCollector
from detseg.draw import draw, overlay
from detseg.errors import DataError
from detseg.plural import counted

MAX_CLASSES = 20  # in the chart
MAX_ISSUE_IMAGES, MAX_MESSAGES = 12, 500  # for each kind of issue
MAX_OPEN = 8  # longer lists are collapsed
MAX_IMAGES = 120  # in the browser
BOX_COLOR, GREY = (255, 40, 40), (110, 110, 110)
MIN_BOX = 10  # pixels; a smaller box gets this much padding on each side


class IssueGroup(NamedTuple):
    """All issues of one kind as the page shows them."""

    kind: str
    severity: str
    title: str
    total: int
    messages: list[str]
    images: list[PageImage]
    has_more_images: bool


def render_page(result: CheckResult, statistics: BoxStatistics, side: int) -> str:
    """Render the page. ``side`` is the short edge of the images that the anchors were compared in."""
    images = [
        (split, index)
        for split, sizes in result.image_sizes.items()
        for index in np.flatnonzero(sizes.all(axis=1)).tolist()
    ]
    chosen = np.linspace(0, len(images) - 1, min(MAX_IMAGES, len(images))).round().astype(int)
    labelled = (_labelled_image(result, *images[position]) for position in chosen)
    coverage = [
        (name, fraction, f"{100 * fraction:.1f} % of {count:,}")
        for name, (count, fraction) in anchor_coverage(statistics).items()
        if count
    ]
    return render(
        "check.html.j2",
        title=f"Check of {result.root.name}",
        result=result,
        split_table=split_table(result),
        class_chart=_class_chart(result),
        histograms=_histograms(statistics, side) if len(statistics.box_sides) else [],
        anchor_chart=BarChart("Boxes with an anchor of IoU 0.5 or more", coverage),
        issue_groups=list(_issue_groups(result)),
        images=[image for image in labelled if image],
        image_count=len(images),
        MAX_OPEN=MAX_OPEN,
    )


def _class_chart(result: CheckResult) -> BarChart:
    unit = "Objects" if result.has_objects else "Pixels"
    totals = sorted(((sum(counts.values()), name) for name, counts in result.class_counts.items()), reverse=True)
    more = f", the first {MAX_CLASSES} of {len(totals)}" if len(totals) > MAX_CLASSES else ""
    return BarChart(
        f"{unit} of each class{more}", [(name, count, f"{count:,}") for count, name in totals[:MAX_CLASSES]]
    )


def _histograms(statistics: BoxStatistics, side: int) -> list[Histogram]:
    per_image = statistics.objects_per_image
    most = int(per_image.max(initial=1))
    step = -(-(most + 1) // 30)  # for at most 30 bins of whole numbers
    edges = np.arange(0, most + step + 1, step, dtype=np.float64)
    return [
        histogram("Objects per image", per_image, edges, "images"),
        histogram("Square root of the area of a box, pixels", statistics.box_sides, np.geomspace(1, 2048, 23), "boxes"),
        histogram("Width over height of a box", statistics.aspect_ratios, np.geomspace(1 / 8, 8, 25), "boxes"),
        histogram(
            f"IoU with the best anchor at a short edge of {side}",
            statistics.anchor_ious,
            np.linspace(0, 1, 21),
            "boxes",
        ),
    ]


def _issue_groups(result: CheckResult) -> Iterator[IssueGroup]:
    for kind, (severity, title) in KINDS.items():
        issues = result.of_kind(kind)
        if not issues:
            continue
        paths = [(issue, Path(issue.image or issue.file)) for issue in issues if kind != "image-empty"]
        with_image = [(issue, path) for issue, path in paths if path.suffix.lower() in SUFFIXES]
        yield IssueGroup(
            kind,
            severity,
            title,
            len(issues),
            [relative(result, issue.message) for issue in issues[:MAX_MESSAGES]],
            [_issue_image(result, issue, path) for issue, path in with_image[:MAX_ISSUE_IMAGES]],
            len(with_image) > MAX_ISSUE_IMAGES,
        )


def _issue_image(result: CheckResult, issue: Issue, path: Path) -> PageImage:
    """Draw the box of an issue in red on its image; an unreadable image is grey."""
    try:
        with open_image(path) as image:
            stored_width = image.width
            image.draft("RGB", (2 * LONG_EDGE, 2 * LONG_EDGE))
            scale = LONG_EDGE / max(image.size)
            pixels = image.convert("RGB").resize([max(1, round(scale * length)) for length in image.size])
            factor = pixels.width / stored_width
    except Exception:  # any failure to decode is the issue itself
        pixels, factor = Image.new("RGB", (LONG_EDGE, LONG_EDGE * 3 // 4), GREY), 1.0
        ImageDraw.Draw(pixels).text(
            (LONG_EDGE / 2, LONG_EDGE * 3 / 8), "cannot be read", fill=(230, 230, 230), anchor="mm", font_size=30
        )
    if issue.box is not None:
        pixels = _draw_box(pixels, np.array(issue.box) * factor)
    return PageImage(data_uri(np.asarray(pixels)), relative(result, issue.message))


def _draw_box(image: Image.Image, box: NDArray[np.float64]) -> Image.Image:
    """Draw a box on an image, which is padded with grey, at most by its own size, if the box lies outside."""
    width, height = image.size
    x1, y1, x2, y2 = box.clip((-width, -height) * 2, (2 * width, 2 * height) * 2)
    left, top = round(min(0, x1, x2)), round(min(0, y1, y2))
    right, bottom = round(max(width, x1, x2)), round(max(height, y1, y2))
    margin = 4 if (left, top, right, bottom) != (0, 0, width, height) else 0
    canvas = Image.new("RGB", (right - left + 2 * margin, bottom - top + 2 * margin), GREY)
    canvas.paste(image, (margin - left, margin - top))
    corners = [min(x1, x2) - left, min(y1, y2) - top, max(x1, x2) - left, max(y1, y2) - top]
    padding = MIN_BOX if min(abs(x2 - x1), abs(y2 - y1)) < MIN_BOX else 2
    padded = [value + margin + side * padding for value, side in zip(corners, (-1, -1, 1, 1), strict=True)]
    ImageDraw.Draw(canvas).rectangle(padded, outline=BOX_COLOR, width=4)
    return canvas


def _labelled_image(result: CheckResult, split: str, index: int) -> PageImage | None:
    """Draw the labels of an image; return None if it cannot be read."""
    annotations = result.splits[split]
    path = annotations.path(index)
    name = f"{split}: {path.relative_to(result.root) if path.is_relative_to(result.root) else path}"
    classes = annotations.classes
    try:
        if not isinstance(annotations, DetectionAnnotations):
            labels = annotations.labels(index, IssueCollector())
            image = overlay(annotations.read_image(index, labels.shape), labels, classes)
            present = np.flatnonzero(np.bincount(labels.ravel(), minlength=256)[: len(classes)])
            return PageImage(data_uri(shrink(image)), name, tuple(classes[label] for label in present))
        height, width = annotations.sizes[index].tolist()
        image = annotations.read_image(index, (height, width))
    except DataError:
        return None
    objects = annotations.objects(index)
    small = shrink(image)
    scale = np.tile([small.shape[1] / width, small.shape[0] / height], 2)
    tables = annotations.masks
    masks = () if tables is None else tables.draw(np.arange(objects.start, objects.stop), height, width)
    resized = (cv2.resize(mask.astype(np.uint8), small.shape[1::-1]) > 0 for mask in masks)
    drawn = draw(small, annotations.boxes[objects] * scale, annotations.labels[objects], classes, masks=resized)
    names = sorted({classes[label] for label in annotations.labels[objects]})
    return PageImage(data_uri(drawn), f"{name}, {counted(objects.stop - objects.start, 'object')}", tuple(names))
