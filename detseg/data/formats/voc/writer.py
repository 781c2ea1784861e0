"""Writer of Pascal VOC data sets."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.masks import NONE
from detseg.data.formats.base import WHOLE, ConversionReport
from detseg.data.formats.writing import DIGITS, image_names
from detseg.errors import DataError

NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, section 2.2


def write_voc(
    splits: Mapping[str, DetectionAnnotations], out: Path, place: Callable[[Path, Path], None]
) -> ConversionReport:
    """Write Annotations, JPEGImages and ImageSets/Main. Raises DataError for names that XML cannot hold."""
    names = image_names(splits)
    for name in chain(next(iter(splits.values())).classes, *names.values()):
        if NOT_XML.search(name):
            raise DataError(
                f"{out}: the name {name!a} has a character that VOC's files, being XML, cannot hold; change the name, "
                "or write COCO or YOLO"
            )
    (out / "Annotations").mkdir()
    losses: Counter[str] = Counter()
    for split, table in splits.items():
        losses.update(_losses(table))
        for index, name in enumerate(names[split]):
            place(table.path(index), out / "JPEGImages" / name)
            tree = _image_element(name, *table.sizes[index].tolist())
            for i in range(*table.objects(index).indices(len(table.labels))):
                x1, y1, x2, y2 = table.boxes[i].tolist()
                if x2 - x1 <= 1 or y2 - y1 <= 1:
                    losses["boxes no more than a pixel wide or high are left out"] += 1
                    continue
                difficult = bool(table.difficult[i] or table.crowd[i])
                tree.append(_object_element(table.classes[table.labels[i]], (x1 + 1, y1 + 1, x2, y2), difficult))
            indent(tree)
            (out / "Annotations" / f"{os.path.splitext(name)[0]}.xml").write_bytes(tostring(tree, encoding="utf-8"))
        if split != WHOLE:
            lists = out / "ImageSets" / "Main"
            lists.mkdir(parents=True, exist_ok=True)
            stems = "".join(f"{os.path.splitext(name)[0]}\n" for name in names[split])
            (lists / f"{split}.txt").write_text(stems, encoding="utf-8")
    classes = next(iter(splits.values())).classes
    seen = np.unique(np.concatenate([table.labels for table in splits.values()]))
    losses["classes without an object are forgotten"] = len(classes) - len(seen)
    if any(table.category_ids != tuple(range(1, len(classes) + 1)) for table in splits.values()):
        losses["classes lose their category ids"] = len(classes)
    return ConversionReport(losses)


def _losses(table: DetectionAnnotations) -> dict[str, int]:
    """Count the annotations that VOC cannot represent."""
    masks = 0 if table.masks is None else int((table.masks.mask_types != NONE).sum())
    return {"crowds become difficult objects": int(table.crowd.sum()), "masks are left out": masks}


def _image_element(name: str, height: int, width: int) -> Element:
    tree = Element("annotation")
    SubElement(tree, "folder").text = "JPEGImages"
    SubElement(tree, "filename").text = name
    size = SubElement(tree, "size")
    for key, value in (("width", width), ("height", height), ("depth", 3)):
        SubElement(size, key).text = str(value)
    SubElement(tree, "segmented").text = "0"
    return tree


def _object_element(name: str, corners: tuple[float, ...], difficult: bool) -> Element:
    entry = Element("object")
    SubElement(entry, "name").text = name
    SubElement(entry, "difficult").text = str(int(difficult))
    box = SubElement(entry, "bndbox")
    for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
        SubElement(box, key).text = repr(round(value, DIGITS)).removesuffix(".0")
    return entry
