"""Charts and labelled grids of pictures, as images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detseg.draw import ImageArray

INK, FAINT, PAPER = (40, 40, 40), (222, 222, 222), (255, 255, 255)
COLOURS = ((0, 101, 189), (217, 95, 14), (110, 110, 110), (0, 130, 80))
CAPTION = 24  # pixels for the text below a picture
SMOOTH = 2  # lines are drawn so many times larger, and then made smaller
UNIT = SMOOTH * 8  # of all distances in a chart

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Line(NamedTuple):
    """One line of a chart, with a bar of ``spread`` to both sides of each value."""

    name: str
    values: Sequence[float]
    spread: Sequence[float] | None = None
    dashed: bool = False


class Bars(NamedTuple):
    """One bar of a chart at each of its places."""

    name: str
    values: Sequence[float]


class Frame(NamedTuple):
    """The plot area of a chart with ``places`` on the x axis and values from 0 to ``limit``, in pixels."""

    left: float
    right: float
    top: float
    bottom: float
    places: int
    limit: float

    def x(self, place: int) -> float:
        return self.left + (place + 0.5) * (self.right - self.left) / self.places

    def y(self, value: float) -> float:
        return self.bottom - value / self.limit * (self.bottom - self.top)


def line_chart(
    title: str, places: Sequence[str], lines: Sequence[Line], below: str, beside: str, size: tuple[int, int]
) -> ImageArray:
    """Draw values from 0 to 1 in per cent over named ``places``; ``below`` and ``beside`` say what the axes are.

    ``size`` is width and height in pixels.
    """
    width, height = (SMOOTH * length for length in size)
    image = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(image)
    highest = max(value + spread for line in lines for value, spread in zip(line.values, _spread(line), strict=True))
    step = 0.1 if highest > 0.3 else 0.05
    limit = max(step, math.ceil(round(highest / step, 6)) * step)
    frame = Frame(9 * UNIT, width - 3 * UNIT, 10 * UNIT, height - 9 * UNIT, len(places), limit)
    font, large = (ImageFont.load_default(size=SMOOTH * points) for points in (14, 17))
    pen.text((frame.left, UNIT), title, fill=INK, font=large)
    pen.text(((frame.left + frame.right) / 2, height - UNIT), below, fill=INK, font=font, anchor="md")
    pen.text((UNIT, frame.top - UNIT), beside, fill=INK, font=font, anchor="ld")
    _draw_axes(pen, frame, places, step, font)
    start = frame.left
    for line, colour in zip(lines, COLOURS, strict=False):
        _draw_line(pen, frame, line, colour)
        legend = 4.5 * UNIT
        _stroke(pen, [(start, legend), (start + 4 * UNIT, legend)], colour, line.dashed)
        pen.text((start + 5 * UNIT, legend), line.name, fill=INK, font=font, anchor="lm")
        start += 8 * UNIT + pen.textlength(line.name, font=font)
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))


def bar_chart(
    title: str, places: Sequence[str], bars: Sequence[Bars], beside: str, size: tuple[int, int]
) -> ImageArray:
    """Draw positive values over named ``places``, on a logarithmic scale; a value of 0 is said, and has no bar.

    ``beside`` says what the values are, ``size`` is width and height in pixels.
    """
    width, height = (SMOOTH * length for length in size)
    image = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(image)
    font, large = (ImageFont.load_default(size=SMOOTH * points) for points in (14, 17))
    positive = [value for each in bars for value in each.values if value > 0]
    lowest, highest = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    decades = max(1, highest - lowest)
    frame = Frame(11 * UNIT, width - 3 * UNIT, 10 * UNIT, height - 5 * UNIT, len(places), decades)
    pen.text((frame.left, UNIT), title, fill=INK, font=large)
    pen.text((UNIT, frame.top - UNIT), beside, fill=INK, font=font, anchor="ld")
    for decade in range(decades + 1):
        pen.line([(frame.left, frame.y(decade)), (frame.right, frame.y(decade))], fill=FAINT, width=SMOOTH)
        pen.text(
            (frame.left - UNIT, frame.y(decade)), f"{10.0 ** (lowest + decade):g}", fill=INK, font=font, anchor="rm"
        )
    pen.line([(frame.left, frame.bottom), (frame.right, frame.bottom)], fill=INK, width=SMOOTH)
    thick = 0.8 * (frame.right - frame.left) / len(places) / len(bars)
    start = frame.left
    for row, (each, colour) in enumerate(zip(bars, COLOURS, strict=False)):
        pen.rectangle((start, 4 * UNIT, start + UNIT, 5 * UNIT), fill=colour)
        pen.text((start + 2 * UNIT, 4.5 * UNIT), each.name, fill=INK, font=font, anchor="lm")
        start += 5 * UNIT + pen.textlength(each.name, font=font)
        for place, value in enumerate(each.values):
            left = frame.x(place) + (row - len(bars) / 2) * thick
            top = frame.y(math.log10(value) - lowest) if value > 0 else frame.bottom
            if value > 0:
                pen.rectangle((left, top, left + 0.9 * thick, frame.bottom), fill=colour)
            pen.text((left + 0.45 * thick, top - UNIT / 2), f"{value:.2g}", fill=INK, font=font, anchor="md")
    for place, name in enumerate(places):
        pen.text((frame.x(place), frame.bottom + UNIT), name, fill=INK, font=font, anchor="ma")
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))


def labelled_grid(
    title: str, pictures: Sequence[ImageArray], texts: Sequence[str], columns: int, side: int
) -> ImageArray:
    """Put pictures in rows of ``columns``, each with its text below, under a title.

    A picture is made so large or small that its longer side is ``side``; small ones keep their hard pixels.
    """
    sized = [_sized(picture, side) for picture in pictures]
    height, gap, margin, head = max(len(picture) for picture in sized), 12, 16, 48
    columns = min(columns, len(sized))
    rows = math.ceil(len(sized) / columns)
    size = (columns * (side + gap) - gap, rows * (height + CAPTION + gap) - gap)
    image = Image.new("RGB", (size[0] + 2 * margin, head + size[1] + margin), PAPER)
    for place, (picture, text) in enumerate(zip(sized, texts, strict=True)):
        row, column = divmod(place, columns)
        corner = margin + column * (side + gap), head + row * (height + CAPTION + gap)
        image.paste(_captioned(picture, text, side, height), corner)
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=17)
    pen.text((margin, head / 2), _cut(pen, title, font, size[0]), fill=INK, font=font, anchor="lm")
    return np.asarray(image)


def _draw_axes(pen: ImageDraw.ImageDraw, frame: Frame, places: Sequence[str], step: float, font: Font) -> None:
    """Lines across for every ``step``, in per cent, and the names of the places."""
    for tick in range(round(frame.limit / step) + 1):
        at = frame.y(tick * step)
        pen.line([(frame.left, at), (frame.right, at)], fill=FAINT, width=SMOOTH)
        pen.text((frame.left - UNIT, at), f"{100 * tick * step:.0f}", fill=INK, font=font, anchor="rm")
    pen.line([(frame.left, frame.bottom), (frame.right, frame.bottom)], fill=INK, width=SMOOTH)
    for place, name in enumerate(places):
        x = frame.x(place)
        pen.line([(x, frame.bottom), (x, frame.bottom + UNIT / 2)], fill=INK, width=SMOOTH)
        fitting = _fitting(pen, name, (frame.right - frame.left) / len(places))
        pen.multiline_text((x, frame.bottom + UNIT), name, fill=INK, font=fitting, anchor="ma", align="center")


def _draw_line(pen: ImageDraw.ImageDraw, frame: Frame, line: Line, colour: tuple[int, int, int]) -> None:
    points = [(frame.x(place), frame.y(value)) for place, value in enumerate(line.values)]
    _stroke(pen, points, colour, line.dashed)
    for (across, _), value, spread in zip(points, line.values, _spread(line), strict=True):
        if spread:
            low, high = frame.y(max(0, value - spread)), frame.y(value + spread)
            pen.line([(across, low), (across, high)], fill=colour, width=SMOOTH)
            for end in (low, high):
                pen.line([(across - UNIT / 2, end), (across + UNIT / 2, end)], fill=colour, width=SMOOTH)
    if not line.dashed:
        for across, down in points:
            pen.circle((across, down), UNIT / 2, fill=colour)


def _spread(line: Line) -> Sequence[float]:
    return line.spread or [0.0] * len(line.values)


def _fitting(pen: ImageDraw.ImageDraw, text: str, room: float) -> Font:
    """A font in which a text is not wider than there is room, if one that can be read is."""
    for points in (14, 13, 12, 11, 10, 9):
        font = ImageFont.load_default(size=SMOOTH * points)
        left, _, right, _ = pen.multiline_textbbox((0, 0), text, font=font)
        if right - left < 0.95 * room:
            break
    return font


def _stroke(
    pen: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], colour: tuple[int, int, int], dashed: bool
) -> None:
    if not dashed:
        pen.line(points, fill=colour, width=2 * SMOOTH, joint="curve")
        return
    for (x1, y1), (x2, y2) in pairwise(points):
        count = max(1, round(math.hypot(x2 - x1, y2 - y1) / (12 * SMOOTH)))
        for dash in range(count):
            ends = [(dash + part) / count for part in (0.0, 0.5)]
            pen.line([(x1 + t * (x2 - x1), y1 + t * (y2 - y1)) for t in ends], fill=colour, width=2 * SMOOTH)


def _sized(picture: ImageArray, side: int) -> ImageArray:
    scale = side / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    how = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(picture).resize(size, how))


def _captioned(picture: ImageArray, text: str, side: int, height: int) -> Image.Image:
    """A picture in the middle of a cell of paper, with a text below."""
    image = Image.new("RGB", (side, height + CAPTION), PAPER)
    image.paste(Image.fromarray(picture), ((side - picture.shape[1]) // 2, (height - picture.shape[0]) // 2))
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=13)
    pen.text((side / 2, height + CAPTION / 2), _cut(pen, text, font, side), fill=INK, font=font, anchor="mm")
    return image


def _cut(pen: ImageDraw.ImageDraw, text: str, font: Font, room: float) -> str:
    """A text, or so much of it as there is room for."""
    shown = text
    while text and pen.textlength(shown, font=font) > room:
        text = text[:-1]
        shown = f"{text}…"
    return shown
