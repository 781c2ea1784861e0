"""Draws the embedded data set: textured shapes that overlap on textured backgrounds, with exact labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.constants import IGNORE_INDEX
from detseg.data.annotations.builder import Builder
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.formats.coco.writer import write_coco
from detseg.data.formats.voc.writer import write_voc
from detseg.data.formats.writing import link_image
from detseg.draw import save_labels
from detseg.ops.rle import MaskWindow, encode, to_string

CLASSES = ("circle", "ring", "square", "star", "triangle")
SIZES = ((128, 160), (120, 160), (128, 128), (160, 128), (160, 112))  # height, width
RADII = (11, 38)  # pixels
MOST = 6  # objects in an image
EMPTY = 0.04  # share of the images that show none
VISIBLE = 0.5  # share of an object that the edge of the image and later objects must leave
FINE = 4  # outlines are drawn so many times larger, to know by how much they cover a pixel

Image = NDArray[np.uint8]
Points = NDArray[np.float64]
Pixels = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Shape(NamedTuple):
    """One object as it is seen in the end."""

    label: int
    mask: Mask  # (h, w), what later objects do not hide
    outline: Points  # (n, 2) x and y
    whole: bool  # all of it can be seen

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The smallest x1, y1, x2, y2 around the mask."""
        x, y = (np.flatnonzero(self.mask.any(axis=axis)) for axis in (0, 1))
        return int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1


def draw(seed: Sequence[int]) -> tuple[Image, list[Shape]]:
    """Draw one image (h, w, 3) in RGB and list what can be seen in it, from the back to the front."""
    generator = np.random.default_rng(seed)
    height, width = SIZES[generator.integers(len(SIZES))]
    canvas = _texture(generator, height, width)
    shapes: list[Shape] = []
    areas: list[float] = []  # of the shapes before anything was hidden
    count = 0 if generator.random() < EMPTY else int(generator.integers(1, MOST, endpoint=True))
    for _ in range(4 * count):  # most find a place at once; what finds none is left out
        label = int(generator.integers(len(CLASSES)))
        radius = math.exp(generator.uniform(*np.log(RADII)))
        outline = _outline(generator, CLASSES[label], radius) + generator.uniform((0, 0), (width, height))
        middle = outline.mean(axis=0)
        hole = middle + 0.5 * (outline - middle) if CLASSES[label] == "ring" else np.zeros((0, 2))
        left, top = np.floor(outline.min(axis=0)).clip(0).astype(int)
        right, bottom = np.ceil(outline.max(axis=0)).clip(0, (width, height)).astype(int)
        part = (slice(top, bottom), slice(left, right))
        cover = _cover([outline - (left, top), hole - (left, top)], bottom - top, right - left)
        mask = np.zeros((height, width), dtype=bool)
        mask[part] = cover >= 0.5
        area = _area(outline) - _area(hole)
        seen = [shape.mask & ~mask for shape in shapes] + [mask]
        if min(now.sum() / whole for now, whole in zip(seen, [*areas, area], strict=True)) < VISIBLE:
            continue
        shapes = [
            shape._replace(mask=now, whole=shape.whole and not (shape.mask & mask).any())
            for shape, now in zip(shapes, seen[:-1], strict=True)
        ]
        inside = bool((outline >= 0).all() and (outline <= (width, height)).all())
        shapes.append(Shape(label, mask, outline, whole=inside and not len(hole)))
        areas.append(area)
        shade = 0.55 + 0.45 * np.clip(cv2.GaussianBlur(cover, (0, 0), 1.5) * 2 - 1, 0, 1)  # darker towards the outline
        texture = _texture(generator, *cover.shape)
        canvas[part] += cover[..., None] * (texture * shade[..., None] - canvas[part])
        if len(shapes) == count:
            break
    canvas += 6 * generator.standard_normal(canvas.shape, dtype=np.float32)
    return np.clip(canvas, 0, 255).astype(np.uint8), shapes


def _texture(generator: np.random.Generator, height: int, width: int) -> Pixels:
    """A pattern of two colours: clouds, stripes, checks or a gradient."""
    first, second = generator.uniform(20, 235, (2, 3)).astype(np.float32)
    y, x = np.ogrid[:height, :width]
    angle, period = generator.uniform((0, 5), (np.pi, 16)).tolist()
    along = (x * np.cos(angle) + y * np.sin(angle)).astype(np.float32)
    across = (y * np.cos(angle) - x * np.sin(angle)).astype(np.float32)
    match generator.integers(4):
        case 0:
            grid = generator.random((6, 6), dtype=np.float32)
            share = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        case 1:
            share = 0.5 + 0.5 * np.sin(along * 2 * np.pi / period)
        case 2:
            share = (np.floor(along / period) + np.floor(across / period)) % 2
        case _:
            share = (along - along.min()) / np.ptp(along)
    mixed: Pixels = first + np.clip(share, 0, 1)[..., None] * (second - first)
    return mixed


def _outline(generator: np.random.Generator, name: str, radius: float) -> Points:
    """Corners (n, 2) of a shape around the origin, turned and stretched a little."""
    corners = {"circle": 48, "ring": 48, "square": 4, "star": 10, "triangle": 3}[name]
    angles = np.arange(corners) * 2 * np.pi / corners + generator.uniform(0, 2 * np.pi)
    lengths = np.where(np.arange(corners) % 2, 0.45, 1.0) if name == "star" else np.ones(corners)
    points: Points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * lengths[:, None] * radius
    return points * generator.uniform(0.85, 1, 2)


def _area(outline: Points) -> float:
    x, y = outline.T
    return float(abs((x * np.roll(y, 1) - y * np.roll(x, 1)).sum()) / 2)


def _cover(rings: list[Points], height: int, width: int) -> Pixels:
    """By how much the area between rings of points covers each pixel, 0 to 1."""
    fine = np.zeros((height * FINE, width * FINE), dtype=np.uint8)
    cv2.fillPoly(
        fine, [np.round((ring * FINE - 0.5) * 16).astype(np.int32) for ring in rings if len(ring)], 255, shift=4
    )
    return (cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA) / 255).astype(np.float32)


def write(root: Path, train: int, val: int, seed: int) -> None:
    """Draw the images and write them with their labels to the folders ``coco`` and ``voc``."""
    coco, voc = root / "coco", root / "voc"
    for name in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (voc / name).mkdir(parents=True)
    tables: dict[str, DetectionAnnotations] = {}
    for split, numbers in (("train", range(1, train + 1)), ("val", range(train + 1, train + val + 1))):
        builder = Builder(root, voc / "JPEGImages")
        for number in numbers:
            image, shapes = draw((seed, number))
            name, size = f"{number:06d}.jpg", (image.shape[0], image.shape[1])
            encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
            (voc / "JPEGImages" / name).write_bytes(encoded.tobytes())
            row = builder.image(name, size)
            for shape in shapes:
                rle = to_string(encode(MaskWindow(0, 0, shape.mask.T), *size))
                mask = shape.outline.round(2).tolist() if shape.whole else rle
                builder.add(row, CLASSES[shape.label], shape.box, float(shape.mask.sum()), mask)
            _write_segmentation(voc, number, *size, shapes)
        names = "".join(f"{number:06d}\n" for number in numbers)
        (voc / "ImageSets/Segmentation" / f"{split}.txt").write_text(names, encoding="utf-8")
        table = builder.annotations({name: number for number, name in enumerate(CLASSES, start=1)})
        tables[split] = replace(table, image_ids=np.array(numbers))
    coco.mkdir()
    write_coco(tables, coco, link_image)
    for split in tables:
        (coco / "images" / split).rename(coco / split)
    (coco / "images").rmdir()
    write_voc(tables, voc, lambda *_: None)  # the images are there


def write_crops(root: Path, train: int, val: int, seed: int, size: int) -> None:
    """Draw images until there are enough shapes of each class, and write these to folders, ``size`` pixels square."""
    number = 0
    for split, count in (("train", train), ("val", val)):
        missing = {name: count // len(CLASSES) for name in CLASSES}
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
        while any(missing.values()):
            number += 1
            image, shapes = draw((seed, number))
            for position, shape in enumerate(shapes):
                name = CLASSES[shape.label]
                if missing[name]:
                    missing[name] -= 1
                    path = root / split / name / f"{number:06d}_{position}.png"
                    path.write_bytes(cv2.imencode(".png", _crop(image, shape.box, size)[..., ::-1])[1].tobytes())


def _crop(image: Image, box: tuple[int, int, int, int], size: int) -> Image:
    """The square around a box, and an eighth of its side more on each side, as far as the image reaches."""
    x1, y1, x2, y2 = box
    half = 0.625 * max(x2 - x1, y2 - y1)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    left, top = max(round(x - half), 0), max(round(y - half), 0)
    part = image[top : round(y + half), left : round(x + half)]
    return cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _write_segmentation(voc: Path, number: int, height: int, width: int, shapes: list[Shape]) -> None:
    """Palette images of the class and of the number of the object that each pixel shows; 0 is the background."""
    for folder in ("SegmentationClass", "SegmentationObject"):
        labels = np.zeros((height, width), dtype=np.uint8)
        for position, shape in enumerate(shapes):
            labels[shape.mask] = shape.label + 1 if folder == "SegmentationClass" else position + 1
        for shape in shapes:
            edge = cv2.morphologyEx(shape.mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
            labels[edge > 0] = IGNORE_INDEX
        save_labels(labels, voc / folder / f"{number:06d}.png")
