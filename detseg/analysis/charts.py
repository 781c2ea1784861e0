"""Line charts and labelled grids of images, drawn with matplotlib.

matplotlib is imported on the first drawing. Figures are made without pyplot, so there is no global state to close.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from detseg.draw import ImageArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # of Okabe and Ito: distinct to colour-blind readers as well
MARKERS = ("o", "s", "^", "D")
DPI = 100
MAX_TICK_CHARACTERS = 90  # of all labels of the x axis together; longer ones are rotated
MAX_TICKS = 30
GRID_GAP, GRID_MARGIN, GRID_HEAD, GRID_CAPTION = 12, 16, 48, 24  # pixels
TITLE_PT, CAPTION_PT = 12.0, 9.5
CHARACTER_WIDTH = 0.75  # pixels per point of the font size at this resolution


class Line(NamedTuple):
    """A line of a chart, with error bars of ``spread`` above and below each value."""

    name: str
    values: Sequence[float]
    spread: Sequence[float] | None = None
    dashed: bool = False


def line_chart(
    title: str, x_ticks: Sequence[str], lines: Sequence[Line], x_label: str, y_label: str, size: tuple[int, int]
) -> ImageArray:
    """Draw values from 0 to 1 as per cent over the labels ``x_ticks``. ``size`` is width and height in pixels."""
    from matplotlib.ticker import PercentFormatter

    figure = to_figure(size)
    axes = figure.add_subplot(xlabel=x_label, ylabel=y_label)
    axes.set_title(escape(title), wrap=True)
    positions = range(len(x_ticks))
    for line, color, marker in zip(lines, cycle(COLORS), cycle(MARKERS), strict=False):
        style, marker = ("--", "") if line.dashed else ("-", marker)
        axes.errorbar(
            positions, line.values, line.spread, color=color, linestyle=style, marker=marker, capsize=3, label=line.name
        )
    step = math.ceil(len(x_ticks) / MAX_TICKS)
    axes.set_xticks(positions[::step], [escape(text) for text in x_ticks[::step]])
    if sum(map(len, x_ticks[::step])) > MAX_TICK_CHARACTERS:
        figure.autofmt_xdate(rotation=30)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=""))
    axes.grid(axis="y", alpha=0.4)
    axes.legend()
    return pixels_of(figure)


def labelled_grid(
    title: str, images: Sequence[ImageArray], captions: Sequence[str], columns: int, side: int
) -> ImageArray:
    """Arrange images in rows of ``columns`` under a title, each with its caption below.

    Images are scaled to a longer side of ``side`` pixels; enlarged ones keep hard pixels. Long texts are cut.
    """
    scaled = [_scale(image, side) for image in images]
    columns, height = min(columns, len(scaled)), max(len(image) for image in scaled)
    rows = math.ceil(len(scaled) / columns)
    column_width, row_height = side + GRID_GAP, height + GRID_CAPTION + GRID_GAP
    width = columns * column_width - GRID_GAP + 2 * GRID_MARGIN
    total_height = GRID_HEAD + rows * row_height - GRID_GAP + GRID_MARGIN
    figure = to_figure((width, total_height))

    def write(x: float, y: float, text: str, room: int, points: float, align: str) -> None:
        """Write a text at ``x`` and the height ``y``, in pixels from the top left corner, cut to ``room`` pixels."""
        most = int(room / (CHARACTER_WIDTH * points))
        shown = text if len(text) <= most else f"{text[: most - 1]}…"
        figure.text(x / width, 1 - y / total_height, escape(shown), fontsize=points, ha=align, va="center")

    write(GRID_MARGIN, GRID_HEAD / 2, title, width - 2 * GRID_MARGIN, TITLE_PT, "left")
    for index, (image, caption) in enumerate(zip(scaled, captions, strict=True)):
        row, column = divmod(index, columns)
        left, top = GRID_MARGIN + column * column_width, GRID_HEAD + row * row_height
        x, y = left + (side - image.shape[1]) // 2, top + (height - image.shape[0]) // 2
        figure.figimage(image, x, total_height - y - image.shape[0], origin="upper")
        write(left + side / 2, top + height + GRID_CAPTION / 2, caption, side, CAPTION_PT, "center")
    return pixels_of(figure)


def to_figure(size: tuple[int, int]) -> Figure:
    """Make an empty figure of this width and height in pixels."""
    from matplotlib.figure import Figure

    return Figure((size[0] / DPI, size[1] / DPI), dpi=DPI, layout="constrained")


def pixels_of(figure: Figure) -> ImageArray:
    """Draw a figure to pixels."""
    stream = io.BytesIO()
    figure.savefig(stream, format="rgba")
    width, height = (round(length) for length in figure.bbox.size)
    return np.frombuffer(stream.getvalue(), np.uint8).reshape(height, width, 4)[..., :3].copy()


def escape(text: str) -> str:
    """Keep matplotlib from reading dollar signs, of a file name for example, as a formula."""
    return text.replace("$", r"\$")


def _scale(image: ImageArray, side: int) -> ImageArray:
    """Resize an image to a longer side of ``side`` pixels."""
    scale = side / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    resampling = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(image).resize(size, resampling))
