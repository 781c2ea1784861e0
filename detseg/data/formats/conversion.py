"""Data sets from any format that is read into COCO, VOC or YOLO; what a format cannot hold is counted."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np
import yaml

from detseg.data.annotations.builder import Source
from detseg.data.annotations.contours import Points, concat_contours, make_clockwise, trace_contours
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.images import image_size
from detseg.data.annotations.masks import NONE, POLYGONS, concat_masks, pack_polygons
from detseg.errors import DataError

Losses = Counter[str]  # how often something was left out or changed, by what

DIGITS = 9  # of a pixel, behind the point: more are the noise of taking 1 off and adding it again

NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, section 2.2


def convert(source: Source, to: str, out: Path, masks: bool = True, copy: bool = False) -> Losses:
    """Write all parts of a data set to a folder ``out``, which must be empty or not exist, in the format ``to``.

    Images are hard links of those there are, or copies where that cannot be or ``copy`` says so; ``masks`` are written
    where the format has a place for them. Returns how often something was lost, by what; boxes, names and flags
    otherwise stay as they are, to a billionth of a pixel. Raises DataError for what is missing or broken, and where
    something is in the way.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: is there already, and nothing is overwritten; give a new folder")
    parts = _same_classes({name: read() for name, read in source.parts.items()}, source.numbered)
    if not masks:
        parts = {name: replace(part, masks=None) for name, part in parts.items()}
    losses: Losses = Counter()
    out.mkdir(parents=True, exist_ok=True)
    WRITERS[to](parts, out, _copy if copy else _link, losses)
    return losses


def _same_classes(parts: Mapping[str, DetectionAnnotations], numbered: bool) -> dict[str, DetectionAnnotations]:
    """Number the classes of all parts alike: a part may lack some."""
    ids: dict[str, int] = {}
    for part in parts.values():
        for name, number in zip(part.classes, part.category_ids, strict=True):
            ids.setdefault(name, number)
    if not numbered:
        ids = {name: number for number, name in enumerate(sorted(ids), start=1)}
    return {name: replace(part.relabel(list(ids)), category_ids=tuple(ids.values())) for name, part in parts.items()}


def _names(parts: Mapping[str, DetectionAnnotations]) -> dict[str, list[str]]:
    """A name for each image, by parts: its own, with its folders in front where another has it too, and a number behind
    where that is not enough: capitals do not tell files apart everywhere."""
    own = {part: [Path(str(file)) for file in annotations.files] for part, annotations in parts.items()}
    stems = Counter(file.stem.lower() for files in own.values() for file in files)
    taken = {stem for stem, count in stems.items() if count == 1}

    def name_of(part: str, file: Path) -> str:
        if stems[file.stem.lower()] == 1:
            return file.name
        start, suffix = os.path.splitext("_".join([part, *file.parts]))
        stem, numbers = start, count(2)
        while stem.lower() in taken:
            stem = f"{start}_{next(numbers)}"
        taken.add(stem.lower())
        return stem + suffix

    return {part: [name_of(part, file) for file in files] for part, files in own.items()}


def _write_coco(
    parts: Mapping[str, DetectionAnnotations], out: Path, place: Callable[[Path, Path], None], losses: Losses
) -> None:
    names = _names(parts)
    (out / "annotations").mkdir()
    for part, table in parts.items():
        folder = "images" if part == "all" else f"images/{part}"
        numbers = table.image_ids.tolist()
        if table.image_ids.dtype.kind not in "iu":
            numbers = list(range(1, len(table) + 1))
            losses["images get numbers, since their ids are not"] += len(table)
        images, objects = [], []
        for row, (number, name) in enumerate(zip(numbers, names[part], strict=True)):
            place(table.path(row), out / folder / name)
            height, width = table.sizes[row].tolist()
            images.append({"id": number, "file_name": name, "height": height, "width": width})
            rows = table.objects(row)
            objects += [{**_coco_object(table, i, height, width), "image_id": number}
                        for i in range(rows.start, rows.stop)]  # fmt: skip
        categories = [
            {"id": number, "name": name} for number, name in zip(table.category_ids, table.classes, strict=True)
        ]
        content = {"images": images, "annotations": objects, "categories": categories}
        ending = "" if part == "all" else f"_{part}"
        (out / "annotations" / f"instances{ending}.json").write_text(json.dumps(content))


def _coco_object(annotations: DetectionAnnotations, i: int, height: int, width: int) -> dict[str, Any]:
    x1, y1, x2, y2 = annotations.boxes[i].tolist()
    entry = {
        "id": int(annotations.ids[i]),
        "category_id": annotations.category_ids[annotations.labels[i]],
        "bbox": [round(value, DIGITS) for value in (x1, y1, x2 - x1, y2 - y1)],
        "area": round(float(annotations.areas[i]), DIGITS),
        "iscrowd": int(annotations.crowd[i]),
    }
    if annotations.difficult[i]:
        entry["difficult"] = 1  # not of COCO, whose programs pass over it; read back here
    mask = None if annotations.masks is None else annotations.masks.segmentation(i, height, width)
    if isinstance(mask, list):
        mask = [[round(value, DIGITS) for value in part] for part in mask]
    return entry if mask is None else entry | {"segmentation": mask}


def _write_voc(
    parts: Mapping[str, DetectionAnnotations], out: Path, place: Callable[[Path, Path], None], losses: Losses
) -> None:
    names = _names(parts)
    for name in chain(next(iter(parts.values())).classes, *names.values()):
        if NOT_XML.search(name):
            raise DataError(
                f"{out}: the name {name!a} has a character that VOC's files, being XML, cannot hold; change the name, "
                "or write COCO or YOLO"
            )
    (out / "Annotations").mkdir()
    for part, table in parts.items():
        _count(table, losses)
        for row, name in enumerate(names[part]):
            place(table.path(row), out / "JPEGImages" / name)
            tree = _voc_image(name, *table.sizes[row].tolist())
            rows = table.objects(row)
            for i in range(rows.start, rows.stop):
                x1, y1, x2, y2 = table.boxes[i].tolist()
                if x2 - x1 <= 1 or y2 - y1 <= 1:
                    losses["boxes no more than a pixel wide or high are left out"] += 1
                    continue
                hard = bool(table.difficult[i] or table.crowd[i])
                tree.append(_voc_object(table.classes[table.labels[i]], (x1 + 1, y1 + 1, x2, y2), hard))
            indent(tree)
            (out / "Annotations" / f"{os.path.splitext(name)[0]}.xml").write_bytes(tostring(tree, encoding="utf-8"))
        if part != "all":
            lists = out / "ImageSets" / "Main"
            lists.mkdir(parents=True, exist_ok=True)
            stems = "".join(f"{os.path.splitext(name)[0]}\n" for name in names[part])
            (lists / f"{part}.txt").write_text(stems, encoding="utf-8")
    first = next(iter(parts.values()))
    seen = np.unique(np.concatenate([part.labels for part in parts.values()]))
    losses["classes without an object are forgotten"] += len(first.classes) - len(seen)


def _count(annotations: DetectionAnnotations, losses: Losses) -> None:
    """What VOC has no place for."""
    losses["crowds become difficult objects"] += int(annotations.crowd.sum())
    if annotations.masks is not None:
        losses["masks are left out"] += int((annotations.masks.mask_types != NONE).sum())
    if annotations.category_ids != tuple(range(1, len(annotations.classes) + 1)):
        losses["classes lose their numbers"] = len(annotations.classes)


def _voc_image(name: str, height: int, width: int) -> Element:
    tree = Element("annotation")
    SubElement(tree, "folder").text = "JPEGImages"
    SubElement(tree, "filename").text = name
    size = SubElement(tree, "size")
    for key, value in (("width", width), ("height", height), ("depth", 3)):
        SubElement(size, key).text = str(value)
    SubElement(tree, "segmented").text = "0"
    return tree


def _voc_object(name: str, corners: tuple[float, ...], difficult: bool) -> Element:
    entry = Element("object")
    SubElement(entry, "name").text = name
    SubElement(entry, "difficult").text = str(int(difficult))
    box = SubElement(entry, "bndbox")
    for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
        SubElement(box, key).text = repr(round(value, DIGITS)).removesuffix(".0")
    return entry


def _write_yolo(
    parts: Mapping[str, DetectionAnnotations], out: Path, place: Callable[[Path, Path], None], losses: Losses
) -> None:
    names = _names(parts)
    first = next(iter(parts.values()))
    settings: dict[str, Any] = {"train": "images", "val": "images"} if "all" in parts else {}
    for part, table in parts.items():
        folder = "" if part == "all" else f"/{part}"
        settings |= {part: f"images{folder}"} if folder else {}
        (out / f"labels{folder}").mkdir(parents=True, exist_ok=True)
        if table.category_ids != tuple(range(len(table.classes))):
            losses["classes lose their numbers"] = len(table.classes)
        for row, name in enumerate(names[part]):
            place(table.path(row), out / f"images{folder}" / name)
            height, width = table.sizes[row].tolist()
            if image_size(table.path(row)) != (height, width):
                raise DataError(
                    f"{table.path(row)}: is not {width}x{height} as its labels say, turned as its EXIF "
                    "orientation says; YOLO's numbers are shares of the image: turn the picture or correct the labels"
                )
            rows = table.objects(row)
            lines = [_yolo_line(table, i, height, width, losses) for i in range(rows.start, rows.stop)]
            file = out / f"labels{folder}" / f"{os.path.splitext(name)[0]}.txt"
            file.write_text("".join(f"{line}\n" for line in lines if line))
    settings["names"] = dict(enumerate(first.classes))
    (out / "data.yaml").write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _yolo_line(annotations: DetectionAnnotations, i: int, height: int, width: int, losses: Losses) -> str:
    """The line of an object: its class, and the box or the polygon as shares of the image; empty for a crowd."""
    if annotations.crowd[i]:
        losses["crowds are left out"] += 1
        return ""
    if annotations.difficult[i]:
        losses["difficult objects become objects like others"] += 1
    x1, y1, x2, y2 = box = annotations.boxes[i].tolist()
    numbers = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
    if annotations.masks is not None and annotations.masks.mask_types[i] != NONE:
        points = _polygon(annotations, i, height, width, losses)
        if np.abs([*points.min(axis=0), *points.max(axis=0)] - np.array(box)).max() > 10**-6:
            losses["boxes become those around their polygons"] += 1
        numbers = (points / (width, height)).ravel().tolist()
    elif annotations.masks is not None:
        losses["objects without a mask are boxes among polygons"] += 1
    if min(numbers) < 0 or max(numbers) > 1:
        losses["labels reach beyond their image, which other programs refuse"] += 1
    return " ".join([str(annotations.labels[i]), *map(repr, numbers)])


def _polygon(annotations: DetectionAnnotations, i: int, height: int, width: int, losses: Losses) -> Points:
    """The mask of an object as one polygon that is drawn as the same pixels."""
    masks = annotations.masks
    assert masks is not None
    if masks.mask_types[i] == POLYGONS:
        parts = [polygon.reshape(-1, 2) for polygon in masks.polygons(i)]
        if len(parts) == 1:
            return parts[0]
        losses["polygons of several parts become one, with bridges of no width"] += 1
        whole = concat_contours([make_clockwise(part) for part in parts])
        drawn = concat_masks([(POLYGONS, pack_polygons([whole.ravel().tolist()]))])
        if drawn.rle(0, height, width) == masks.rle(i, height, width):
            return whole
    else:
        losses["run lengths become polygons along the edges of pixels"] += 1
    found = trace_contours(next(masks.draw(np.array([i]), height, width)))
    if not found:
        file = annotations.path(int(np.searchsorted(annotations.offsets, i, side="right")) - 1)
        raise DataError(
            f"{file}: annotation {annotations.ids[i]} has a mask without a pixel; correct it, or give --masks none"
        )
    return concat_contours(found)


def _link(source: Path, target: Path) -> None:
    """Make ``target`` another name of a file, or a copy where the file system cannot."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except FileNotFoundError:
        raise DataError(f"{source}: there is no such image") from None
    except OSError:
        _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    """Copy a file. Raises DataError where it is not there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        raise DataError(f"{source}: there is no such image") from None


WRITERS = {"COCO": _write_coco, "VOC": _write_voc, "YOLO": _write_yolo}
