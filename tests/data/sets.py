"""Small valid data sets in several formats, with the truth that they hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.data import made

NAMES = ("cat", "dog")
Object = tuple[str, int, int, int, int]  # class and corners


class Picture(NamedTuple):
    """An image and its objects."""

    stem: str
    width: int
    height: int
    objects: list[Object]


Truth = dict[str, list[Picture]]  # by split
Writer = Callable[[Path, Truth], list[Path]]  # returns the label files


def draw_truth(generator: np.random.Generator, splits: dict[str, int], prefix: str = "p") -> Truth:
    """Draw random pictures of up to three objects, at least one in the first."""
    truth: Truth = {}
    for split, count in splits.items():
        truth[split] = []
        for number in range(count):
            width, height = (int(side) for side in generator.integers(24, 48, 2))
            objects = []
            for k in range(int(generator.integers(1 if number == 0 else 0, 4))):
                x, y = (int(value) for value in generator.integers(1, 12, 2))
                w, h = (int(value) for value in generator.integers(4, 12, 2))
                objects.append((NAMES[(number + k) % 2], x, y, x + w, y + h))
            truth[split].append(Picture(f"{prefix}{split[:2]}{number}", width, height, sorted(set(objects))))
        first = truth[split][0]
        truth[split][0] = first._replace(objects=[("cat", 1, 2, 9, 12), ("dog", 3, 4, 15, 20)])
    return truth


def draw_image(file: Path, picture: Picture) -> None:
    """Write an image of noise."""
    file.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, picture.stem)) * 1000 + picture.width
    noise = np.random.default_rng(seed).integers(0, 255, (picture.height, picture.width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)


def yolo_lines(picture: Picture) -> str:
    """Lines of a label file of YOLO."""
    w, h = picture.width, picture.height
    return "".join(
        f"{NAMES.index(name)} {(a + c) / 2 / w:.8f} {(b + d) / 2 / h:.8f} {(c - a) / w:.8f} {(d - b) / h:.8f}\n"
        for name, a, b, c, d in picture.objects
    )


def yolo(root: Path, truth: Truth) -> list[Path]:
    """images/SPLIT and labels/SPLIT."""
    files = []
    for split, pictures in truth.items():
        for picture in pictures:
            draw_image(root / "images" / split / f"{picture.stem}.png", picture)
            files.append(write(root / "labels" / split / f"{picture.stem}.txt", yolo_lines(picture)))
    write(root / "data.yaml", f"names: {[*NAMES]}\n")
    return files


def coco_content(pictures: list[Picture], start: int = 1) -> dict[str, list[dict[str, object]]]:
    """Content of an annotation file of COCO."""
    images = [
        {"id": start + i, "file_name": f"{one.stem}.png", "width": one.width, "height": one.height}
        for i, one in enumerate(pictures)
    ]
    annotations = [
        {"image_id": start + i, "category_id": NAMES.index(name) + 1, "bbox": [a, b, c - a, d - b], "iscrowd": 0}
        for i, one in enumerate(pictures)
        for name, a, b, c, d in one.objects
    ]
    numbered = [{"id": number, **annotation} for number, annotation in enumerate(annotations, 1)]
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES, 1)]
    return {"images": images, "annotations": numbered, "categories": categories}


def coco(root: Path, truth: Truth) -> list[Path]:
    """annotations/instances_SPLIT.json and a folder of images for each split."""
    files = []
    for split, pictures in truth.items():
        for picture in pictures:
            draw_image(root / split / f"{picture.stem}.png", picture)
        text = json.dumps(coco_content(pictures), indent=1)
        files.append(write(root / "annotations" / f"instances_{split}.json", text))
    return files


def voc_text(picture: Picture) -> str:
    """Text of an annotation file of VOC."""
    body = "".join(made.box(name, a + 1, b + 1, c, d) for name, a, b, c, d in picture.objects)
    size = f"<size><width>{picture.width}</width><height>{picture.height}</height></size>"
    return f"<annotation><filename>{picture.stem}.png</filename>{size}{body}</annotation>\n"


def voc_folders(root: Path, truth: Truth) -> list[Path]:
    """Files beside the images, in a folder for each split."""
    files = []
    for split, pictures in truth.items():
        for picture in pictures:
            draw_image(root / split / f"{picture.stem}.png", picture)
            files.append(write(root / split / f"{picture.stem}.xml", voc_text(picture)))
    return files


def voc_lists(root: Path, truth: Truth) -> list[Path]:
    """Folders Annotations and JPEGImages, and lists."""
    files = []
    for split, pictures in truth.items():
        for picture in pictures:
            draw_image(root / "JPEGImages" / f"{picture.stem}.png", picture)
            files.append(write(root / "Annotations" / f"{picture.stem}.xml", voc_text(picture)))
        write(root / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{picture.stem}\n" for picture in pictures))
    return files


def labelme_content(picture: Picture) -> dict[str, object]:
    """Content of a file of LabelMe."""
    shapes = [
        {"label": name, "points": [[a, b], [c, d]], "shape_type": "rectangle", "flags": {}}
        for name, a, b, c, d in picture.objects
    ]
    sides = {"imageHeight": picture.height, "imageWidth": picture.width}
    return {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"{picture.stem}.png", **sides}


def labelme(root: Path, truth: Truth) -> list[Path]:
    """Files beside the images, in a folder for each split."""
    files = []
    for split, pictures in truth.items():
        for picture in pictures:
            draw_image(root / split / f"{picture.stem}.png", picture)
            files.append(write(root / split / f"{picture.stem}.json", json.dumps(labelme_content(picture), indent=1)))
    return files


def csv(root: Path, truth: Truth) -> list[Path]:
    """A table for each split."""
    files = []
    for split, pictures in truth.items():
        lines = ["filename,class,xmin,ymin,xmax,ymax"]
        for picture in pictures:
            draw_image(root / split / f"{picture.stem}.png", picture)
            rows = [f"{picture.stem}.png,{name},{a},{b},{c},{d}" for name, a, b, c, d in picture.objects]
            lines += rows or [f"{picture.stem}.png,,,,,"]
        files.append(write(root / f"{split}.csv", "\n".join(lines) + "\n"))
    return files


def createml(root: Path, truth: Truth) -> list[Path]:
    """A file for each split beside its images."""
    files = []
    for split, pictures in truth.items():
        entries = []
        for picture in pictures:
            draw_image(root / split / f"{picture.stem}.png", picture)
            boxes = [
                {"label": name, "coordinates": {"x": (a + c) / 2, "y": (b + d) / 2, "width": c - a, "height": d - b}}
                for name, a, b, c, d in picture.objects
            ]
            entries.append({"image": f"{picture.stem}.png", "annotations": boxes})
        files.append(write(root / split / "_annotations.createml.json", json.dumps(entries, indent=1)))
    return files


def cvat(root: Path, truth: Truth) -> list[Path]:
    """A file for each split."""
    files = []
    for split, pictures in truth.items():
        body = ""
        for number, picture in enumerate(pictures):
            draw_image(root / split / f"{picture.stem}.png", picture)
            boxes = "".join(
                f'\n  <box label="{name}" xtl="{a}.00" ytl="{b}.00" xbr="{c}.00" ybr="{d}.00"></box>'
                for name, a, b, c, d in picture.objects
            )
            size = f'width="{picture.width}" height="{picture.height}"'
            body += f'\n <image id="{number}" name="{picture.stem}.png" {size}>{boxes}</image>'
        files.append(write(root / f"{split}.xml", f"<annotations><version>1.1</version>{body}\n</annotations>\n"))
    return files


def write(file: Path, text: str) -> Path:
    """Write a text to a file in a new folder; return the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


WRITERS: dict[str, Writer] = {
    one.__name__: one for one in (yolo, coco, voc_folders, voc_lists, labelme, csv, createml, cvat)
}
PER_IMAGE = ("yolo", "voc_folders", "voc_lists", "labelme")  # formats with a label file for each image
