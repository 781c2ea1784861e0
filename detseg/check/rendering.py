"""Self-contained HTML pages from the templates of this package: images are embedded, nothing is loaded."""

from __future__ import annotations

import base64
import io
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from detseg.draw import ImageArray
from detseg.plural import counted

JPEG_QUALITY = 80
LONG_EDGE = 480  # pixels of an image of a page


class PageImage(NamedTuple):
    """An image of a page with its caption and the classes it shows."""

    source: str  # a data: URI
    caption: str
    classes: tuple[str, ...] = ()


class BarChart(NamedTuple):
    """Horizontal bars with a name, a value that is their length, and a text beside them."""

    title: str
    bars: list[tuple[str, float, str]]


class Histogram(NamedTuple):
    """Counts between edges; ``edges`` has one more than ``counts``."""

    title: str
    counts: list[int]
    edges: list[str]
    unit: str


def render(template: str, package: str = "detseg.check", **values: Any) -> str:
    """Fill in a template of a package, which may extend those of this one. All values are escaped."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in dict.fromkeys((package, "detseg.check"))]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["counted"] = counted
    return environment.get_template(template).render(values)


def json_size(value: Any) -> int:
    """The number of bytes that a value takes in a page as JSON."""
    from jinja2.utils import htmlsafe_json_dumps

    return len(htmlsafe_json_dumps(value))


def histogram(title: str, values: ArrayLike, edges: NDArray[np.float64], unit: str) -> Histogram:
    """Count ``values`` between ``edges``; the outer bins include all values beyond them."""
    numbers = np.asarray(values, dtype=np.float64).clip(edges[0], np.nextafter(edges[-1], -np.inf))
    labels = [f"{edge:.0f}" if edge >= 100 else f"{edge:.2g}" for edge in edges]
    return Histogram(title, np.histogram(numbers, edges)[0].tolist(), labels, unit)


def shrink(image: ImageArray, long_edge: int = LONG_EDGE) -> ImageArray:
    """Resize an image to a longer side of at most ``long_edge``."""
    scale = min(1.0, long_edge / max(image.shape[:2]))
    size = max(1, round(scale * image.shape[1])), max(1, round(scale * image.shape[0]))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def data_uri(image: ImageArray, quality: int = JPEG_QUALITY) -> str:
    """Encode an image as a JPEG in a data: URI."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
