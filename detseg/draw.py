"""Draw boxes, masks and semantic labels with their class names on images."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

ImageArray = NDArray[np.uint8]  # (H, W, 3), RGB
Rectangle = tuple[int, int, int, int]  # x1, y1, x2, y2, the last pixel included

GOLDEN_RATIO = 0.618034
BACKGROUND = 64  # grey level between the images of a grid and below a legend
TINT = 0.6  # weight of the class colour in an overlay


def draw(
    image: ImageArray,
    boxes: ArrayLike,
    labels: ArrayLike,
    class_names: Sequence[str] | Mapping[int, str],
    scores: ArrayLike | None = None,
    masks: Iterable[NDArray[np.bool_]] = (),
) -> ImageArray:
    """Draw boxes (N, 4), xyxy in pixels of the image, with class names and scores in per cent on a copy.

    A class has the same colour in every image. Lines and text scale with the image. Every text lies inside the image,
    if possible without covering that of a better detection; better detections are drawn on top. Each of ``masks``
    (H, W) is tinted in the colour of its class, with a dark edge; masks are consumed one by one.
    """
    boxes, labels = np.asarray(boxes, dtype=np.float64).reshape(-1, 4), np.asarray(labels, dtype=np.int64)
    confidence = None if scores is None else np.asarray(scores, dtype=np.float64)
    order = np.arange(len(boxes)) if confidence is None else np.argsort(-confidence, kind="stable")
    tinted, uncovered = image.copy(), np.ones(image.shape[:2], dtype=bool)
    for mask, label in zip(masks, labels, strict=False):  # the first on top
        visible = mask & uncovered
        tinted[visible] = ((1 - TINT) * image[visible] + TINT * np.array(colour(int(label)))).round()
        tinted[_edge(visible)] //= 3  # separates touching objects of a class
        uncovered &= ~mask
    picture = Image.fromarray(np.ascontiguousarray(tinted))
    pen = ImageDraw.Draw(picture)
    height, width = image.shape[:2]
    line = max(2, round((height * width) ** 0.5 / 300))
    font = ImageFont.load_default(size=max(10, round((height * width) ** 0.5 / 48)))

    outlines = [_outline(boxes[row], height, width) for row in order]
    for row, outline in reversed(list(zip(order, outlines, strict=True))):
        pen.rectangle(_enlarge(outline), outline=(0, 0, 0), width=line + 2)  # a dark edge shows on any background
        pen.rectangle(outline, outline=colour(int(labels[row])), width=line)

    tags: list[Rectangle] = []
    texts = []
    for row, outline in zip(order, outlines, strict=True):
        score = "" if confidence is None else f" {100 * confidence[row]:.0f}"
        text, size = _fit_text(pen, font, class_names[int(labels[row])], score, width)
        tags.append(_first_free(_tag_positions(outline, size, height, width), tags))
        texts.append(text)
    for row, tag, text in reversed(list(zip(order, tags, texts, strict=True))):
        background = colour(int(labels[row]))
        pen.rectangle(tag, fill=background)
        middle = ((tag[0] + tag[2] + 1) / 2, (tag[1] + tag[3] + 1) / 2)
        pen.text(middle, text, fill=_text_colour(background), font=font, anchor="mm")
    return np.asarray(picture)


def _edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a mask with a neighbour outside the mask."""
    inside = mask.copy()
    inside[1:] &= mask[:-1]
    inside[:-1] &= mask[1:]
    inside[:, 1:] &= mask[:, :-1]
    inside[:, :-1] &= mask[:, 1:]
    return mask & ~inside


def grid(images: Sequence[Sequence[ImageArray]], side: int = 640) -> ImageArray:
    """Arrange images in rows, for example the ground truth on the left and the prediction on the right.

    An image whose longer side exceeds ``side`` is shrunk to it, at the same aspect ratio.
    """
    cells = [[_shrink(picture, side) for picture in row] for row in images]
    gap = 4
    widths = [max(picture.shape[1] for picture in column) for column in zip(*cells, strict=True)]
    heights = [max(picture.shape[0] for picture in row) for row in cells]
    sheet = np.full((sum(heights) + gap * (len(heights) - 1), sum(widths) + gap * (len(widths) - 1), 3), BACKGROUND)
    sheet = sheet.astype(np.uint8)
    for row, top in zip(cells, _starts(heights, gap), strict=True):
        for picture, left in zip(row, _starts(widths, gap), strict=True):
            sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet


def colour(label: int) -> tuple[int, int, int]:
    """The colour of a class: successive classes differ in hue, and every six classes the shade changes."""
    hue = (0.02 + label * GOLDEN_RATIO) % 1
    saturation, value = ((0.85, 1.0), (0.55, 1.0), (0.9, 0.75))[label // 6 % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def palette() -> NDArray[np.uint8]:
    """The colours (256, 3) of VOC's label images.

    Bits 0, 3, 6, ... of the index are the highest bits of red, bits 1, 4, 7, ... of green, bits 2, 5, ... of blue.
    """
    index = np.arange(256)
    channels = [sum(((index >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)]
    return np.stack(channels, axis=1).astype(np.uint8)


def save_labels(labels: NDArray[np.uint8], path: Path) -> None:
    """Write ``label_image`` of labels (H, W) to a PNG file."""
    label_image(labels).save(path)


def label_image(labels: NDArray[np.uint8]) -> Image.Image:
    """Make a palette image whose pixels are labels (H, W), shown in VOC's colours."""
    image = Image.fromarray(labels)
    image.putpalette(palette().ravel().tolist())  # turns it into mode P, and leaves the pixels as they are
    return image


def overlay(image: ImageArray, labels: NDArray[np.uint8], class_names: Sequence[str]) -> ImageArray:
    """Tint an image by the class of each pixel, labels (H, W), and add a legend of the classes in it below.

    The colours are those of ``palette``. Pixels without a class, such as ignored ones, keep their colour.
    """
    colours = palette()
    tinted = ((1 - TINT) * image + TINT * colours[labels]).round().astype(np.uint8)
    tinted = np.where((labels < len(class_names))[..., None], tinted, image)
    present = np.flatnonzero(np.bincount(labels.ravel(), minlength=256)[: len(class_names)])
    if not len(present):
        return tinted
    height, width = labels.shape
    font = ImageFont.load_default(size=max(10, round((height * width) ** 0.5 / 36)))
    pen = ImageDraw.Draw(Image.fromarray(tinted))
    x, rows = 0, 0
    tags: list[tuple[Rectangle, str, int]] = []
    for label in present.tolist():
        text, (tag_width, tag_height) = _fit_text(pen, font, class_names[label], "", width)
        if x and x + tag_width > width:
            x, rows = 0, rows + 1
        tags.append(((x, rows * tag_height, x + tag_width - 1, (rows + 1) * tag_height - 1), text, label))
        x += tag_width
    legend = Image.new("RGB", (width, tags[-1][0][3] + 1), (BACKGROUND,) * 3)
    pen = ImageDraw.Draw(legend)
    for tag, text, label in tags:
        red, green, blue = colours[label].tolist()
        pen.rectangle(tag, fill=(red, green, blue))
        middle = ((tag[0] + tag[2] + 1) / 2, (tag[1] + tag[3] + 1) / 2)
        pen.text(middle, text, fill=_text_colour((red, green, blue)), font=font, anchor="mm")
    return np.concatenate([tinted, np.asarray(legend)])


def heat(image: ImageArray, values: NDArray[np.float32]) -> ImageArray:
    """Draw a heat map of ``values`` (H, W) in [0, 1] on an image: dark grey at 0, red at 1."""
    grey = image.mean(axis=2, keepdims=True) * (1 - TINT)
    hot = TINT * np.array((255, 40, 0)) + (1 - TINT) * image
    weight = values[..., None]
    return np.asarray((1 - weight) * grey + weight * hot).round().astype(np.uint8)


def _text_colour(background: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = ((channel / 255) ** 2.2 for channel in background)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return (0, 0, 0) if luminance > 0.18 else (255, 255, 255)  # black and white contrast equally there


def _outline(box: NDArray[np.float64], height: int, width: int) -> Rectangle:
    """The rectangle of pixels of a box, clipped to the image and at least one pixel large."""
    x1, x2 = np.clip(np.rint(box[[0, 2]]), 0, width).astype(int).tolist()
    y1, y2 = np.clip(np.rint(box[[1, 3]]), 0, height).astype(int).tolist()
    left, top = min(x1, width - 1), min(y1, height - 1)
    return left, top, max(left, x2 - 1), max(top, y2 - 1)


def _enlarge(outline: Rectangle) -> Rectangle:
    left, top, right, bottom = outline
    return left - 1, top - 1, right + 1, bottom + 1


def _fit_text(
    pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, name: str, score: str, width: int
) -> tuple[str, tuple[int, int]]:
    """The text of a tag and its size (width, height) with a margin; a name too wide for the image is shortened."""
    text = name + score
    _, top, _, bottom = pen.textbbox((0, 0), "Ag", font=font)
    margin = max(2, round((bottom - top) / 5))
    while name and pen.textlength(text, font=font) + 2 * margin > width:
        name = name[:-1]
        text = f"{name}…{score}"
    return text, (round(pen.textlength(text, font=font)) + 2 * margin, round(bottom - top) + 2 * margin)


def _tag_positions(outline: Rectangle, size: tuple[int, int], height: int, width: int) -> list[Rectangle]:
    """Positions for the tag of a box, best first: above it, inside, below, beside it.

    A tag larger than the box is placed inside only where nothing else is possible, since it would hide the object.
    """
    left, top, right, bottom = outline
    corners = (
        (left, top - size[1]),
        (left, top),
        (right - size[0] + 1, top - size[1]),
        (left, bottom + 1),
        (left, bottom - size[1] + 1),
        (right - size[0] + 1, top),
        (right + 1, top),
        (left - size[0], top),
    )
    inside = [(x, y) for x, y in corners if 0 <= y <= height - size[1]]
    positions = []
    for x, y in (*inside, (left, max(0, min(top, height - size[1])))):
        x = max(0, min(x, width - size[0]))
        positions.append((x, y, x + size[0] - 1, y + size[1] - 1))
    hides_object = size[0] > right - left + 1 or size[1] > bottom - top + 1
    return sorted(positions, key=lambda position: hides_object and _overlap(position, outline))


def _first_free(positions: Sequence[Rectangle], tags: Sequence[Rectangle]) -> Rectangle:
    """The first position that overlaps none of ``tags``, or else the first."""
    return next((place for place in positions if not any(_overlap(place, tag) for tag in tags)), positions[0])


def _overlap(one: Rectangle, other: Rectangle) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]


def _shrink(picture: ImageArray, side: int) -> ImageArray:
    scale = side / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def _starts(lengths: Sequence[int], gap: int) -> list[int]:
    """Start of each of ``lengths`` laid out one after the other, ``gap`` apart."""
    return [sum(lengths[:position]) + gap * position for position in range(len(lengths))]
