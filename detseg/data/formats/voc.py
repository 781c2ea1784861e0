"""Pascal VOC annotations: the reader, and where they lie in the usual layouts of folders."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import ParseError

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations.detection import DetectionAnnotations, pack
from detseg.data.annotations.images import SUFFIXES, image_size
from detseg.data.annotations.issues import AnnotationError, collects, report
from detseg.data.annotations.masks import NONE, RLE, WITHOUT, MaskReading, concat_masks
from detseg.data.formats.layout import Tree
from detseg.errors import DataError
from detseg.ops.rle import MaskWindow, encode, to_string

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

FLAG = re.compile(r"\s+(-1|0|1)$")  # behind the name of an image: whether it shows a class; 0 for difficult objects
IGNORE_INDEX = 255  # in an image of objects: a pixel on an outline


class AmbiguousFormatError(DataError):
    """More than one data set, where one is meant."""


@dataclass
class Objects:
    """What the files read so far hold, one entry for each object."""

    rows: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    boxes: list[tuple[float, ...]] = field(default_factory=list)
    difficult: list[bool] = field(default_factory=list)


def read_voc(root: Path, ids: Sequence[str], masks: MaskReading = "none") -> DetectionAnnotations:
    """Read the images ``ids`` (file stems) of a folder that holds annotations and images, as ``find_voc`` returns it.

    The classes are the names found, sorted, which for VOC itself is the devkit's order. They are numbered from 1, and
    so are the objects in the order of reading. Boxes of the files count pixels from 1 and include the last one: 1
    is taken off their first corner. Raises DataError, naming file and object, for whatever is missing or broken.
    """
    folder, images = _folder(root, "annotations"), _folder(root, "jpegimages", "images")
    files = _image_files(images)
    for stem in ids:
        if stem not in files:
            file = folder / f"{stem}.xml"
            report("image-missing", file, f"{file}: no image of this name in {images}")
    pairs = {f"{stem}.xml": files[stem] for stem in ids if stem in files}
    segments = None if masks == "none" else _subfolder(root, "segmentationobject")
    if segments is None and masks in ("all", "valid"):
        raise DataError(f"{root}: its objects have no masks, for want of a folder SegmentationObject; {WITHOUT}")
    return _read(folder, pairs, images, segments, masks)


def read_xml(tree: Tree, files: Sequence[str], masks: MaskReading = "none") -> DetectionAnnotations:
    """Read annotation files that lie anywhere, paths relative to the root of ``tree``, as ``read_voc`` reads them.

    The image of a file has its stem; where none has, it is the one that the file names. Such files have no masks.
    """
    pairs: dict[str, str] = {}
    for name in files:
        file, image = tree.root / name, tree.image_of(name)
        if image is None:
            found = _parse(file)
            if found is None:
                continue
            named = (found.findtext("filename") or "").strip().replace("\\", "/")
            image = tree.image_of(name, named) if named else None
        if image is None:
            report("image-missing", file, f"{file}: no image of this name anywhere below {tree.root}")
            continue
        pairs[name] = image
    return _read(tree.root, pairs, tree.root, None, masks)


def _read(
    folder: Path, pairs: Mapping[str, str], images: Path, segments: Path | None, masks: MaskReading
) -> DetectionAnnotations:
    """Read the annotation files of ``pairs``, relative to ``folder``, each with its image, relative to ``images``.

    ``segments`` is the folder of the images that show the objects as masks, if they are to be read.
    """
    objects = Objects()
    sizes = np.zeros((len(pairs), 2), dtype=np.int32)
    for row, (name, image) in enumerate(pairs.items()):
        sizes[row] = _read_file(folder / name, images / image, row, objects) or image_size(images / image)
    packed: list[tuple[int, bytes]] = []
    reasons: dict[int, str] = {}
    counts = np.bincount(np.array(objects.rows, dtype=np.int64), minlength=len(pairs)).tolist()
    if segments:
        for row, name in enumerate(pairs):
            packed += _read_masks(segments, Path(name).stem, counts[row], sizes[row], len(packed), reasons)
    names = tuple(sorted(set(objects.names)))
    label = {name: number for number, name in enumerate(names)}
    return pack(
        folder,
        classes=names,
        category_ids=range(1, len(names) + 1),
        root=images,
        files=list(pairs.values()),
        image_ids=np.array([name.removesuffix(".xml") for name in pairs], dtype=np.str_),
        sizes=sizes,
        rows=np.array(objects.rows, dtype=np.int64),
        boxes=np.array(objects.boxes, dtype=np.float64).reshape(-1, 4),
        labels=np.array([label[name] for name in objects.names], dtype=np.int64),
        difficult=np.array(objects.difficult, dtype=bool),
        ids=np.arange(1, len(objects.rows) + 1),
        masks=concat_masks(packed) if segments else None,
    ).with_masks(masks, reasons)


def find_voc(root: Path, labels: str = "Annotations") -> Path:
    """Look for the folder that holds labels and images: ``root``, or one such as VOCdevkit/VOC2007 below it.

    Raises DataError where there is none, or more than one.
    """
    below = [folder for parent in (root, root / "VOCdevkit") for folder in sorted(parent.glob("*/"))]
    found = [folder for folder in (root, *below) if _subfolder(folder, labels.lower())]
    if root in found or len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(map(str, found))
        raise AmbiguousFormatError(f"{root}: more than one VOC data set: {several}; give one of them as root")
    kind = ".xml" if labels == "Annotations" else ".png"
    raise DataError(f"{root}: no VOC data set: it has no folder {labels} with one {kind} for each image")


def is_voc_folder(root: Path, labels: str = "Annotations", suffix: str = ".xml") -> bool:
    """Whether ``find_voc`` finds a data set, with labels in it."""
    try:
        return any(_folder(find_voc(root, labels), labels.lower()).glob(f"*{suffix}"))
    except DataError:
        return False


def find_ids(root: Path, split: str | None, kind: str = "Main") -> list[str]:
    """List the images of ImageSets/<kind>/<split>.txt, or of all annotations if ``split`` is None."""
    if split is None:
        return sorted(file.stem for file in _folder(root, "annotations").glob("*.xml"))
    images = _subfolder(root, "jpegimages", "images")
    return read_list(root / "ImageSets" / kind / f"{split}.txt", _image_files(images) if images else ())


def read_list(file: Path, known: Container[str] = ()) -> list[str]:
    """The names in a list, one a line, without the -1, 0 or 1 behind them that the lists of a class have.

    A line that is one of the ``known`` names is taken as it is. Raises DataError for a file that cannot be read.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{file}: cannot read this list of images: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{file}: this list of images is not text") from None
    names = [line.strip() for line in lines if line.strip()]
    return [name if name in known else FLAG.sub("", name) for name in names]


def find_splits(root: Path, kind: str = "Main") -> tuple[str, str] | None:
    """Names of the lists for training and validation, None where ImageSets/<kind> has no such pair."""
    have = {file.stem for file in (root / "ImageSets" / kind).glob("*.txt")}
    pairs = (("train", "val"), ("trainval", "test"), ("train", "test"))
    return next((pair for pair in pairs if have.issuperset(pair)), None)


def _parse(file: Path, image: Path | None = None) -> Element | None:
    """The elements of the annotation file of an image; where faults are collected, None for one that cannot be used."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    try:
        found: Element = fromstring(file.read_bytes())
    except OSError as error:
        report("label-broken", file, f"{file}: cannot read this annotation file: {error.strerror}", image=image)
        return None
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:  # one is of an unknown encoding
        report("label-broken", file, f"{file}: broken XML: {error}", image=image)
        return None
    return found


def _read_file(file: Path, image: Path, row: int, objects: Objects) -> tuple[int, int] | None:
    """Add the objects of the file of one image; return its height and width, None if it does not give them."""
    tree = _parse(file, image)
    if tree is None:
        return None
    for number, entry in enumerate(tree.iterfind("object"), start=1):
        try:
            name = (entry.findtext("name") or "").strip()
            if not name:
                raise AnnotationError("label-broken", "no name")
            left, top, right, bottom = (_number(entry, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax"))
            difficult = (entry.findtext("difficult") or "").strip() not in ("", "0")
        except AnnotationError as flaw:
            report(flaw.kind, file, f"{file}: object {number} has {flaw}", number, image=image)
            continue
        # One pixel wide by the rule, yet in practice a slip of the mouse: made empty, so that it is dropped and logged.
        empty = right <= left or bottom <= top
        objects.rows.append(row)
        objects.names.append(name)
        objects.boxes.append((left, top, right, bottom) if empty else (left - 1, top - 1, right, bottom))
        objects.difficult.append(difficult)
    try:
        height, width = int(_number(tree, "size/height")), int(_number(tree, "size/width"))
    except AnnotationError:
        return None
    return (height, width) if height > 0 and width > 0 else None


def _read_masks(
    folder: Path, stem: str, count: int, size: NDArray[np.int32], before: int, reasons: dict[int, str]
) -> list[tuple[int, bytes]]:
    """The masks of the objects of one image, whose pixels have their numbers in its image in ``folder``.

    ``before`` objects are those of other images; what is wrong with one goes to ``reasons``.
    """
    file = folder / f"{stem}.png"
    height, width = size.tolist()
    if not file.exists():
        absent = "has no mask" if collects() else f"has no {file}"  # not every image of a set has them
        reasons |= dict.fromkeys(range(before + 1, before + count + 1), absent)
        return [(NONE, b"")] * count
    numbers = _read_numbers(file, height, width)
    if numbers is None:
        return [(NONE, b"")] * count
    shown = set(np.unique(numbers).tolist()) - {0, IGNORE_INDEX}
    if shown and max(shown) > count:
        told = f"{file}: shows an object {max(shown)}, but the annotation of {stem} lists {count}"
        report("mask-broken", file, told, max(shown))
    masks = []
    for number in range(1, count + 1):
        if number not in shown:
            reasons[before + number] = f"(object {number} of its file) has no pixel in {file}"
            masks.append((NONE, b""))
            continue
        masks.append((RLE, to_string(encode(MaskWindow(0, 0, (numbers == number).T), height, width))))
    return masks


def _read_numbers(file: Path, height: int, width: int) -> NDArray[np.uint8] | None:
    """The number of the object of each pixel; where faults are collected, None for a file that cannot be used."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            if image.mode not in ("P", "L"):
                told = f"{file}: must show the number of the object of each pixel, but is an image in colour"
                report("mask-broken", file, told)
                return None
            numbers: NDArray[np.uint8] = np.array(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        report("mask-broken", file, f"{file}: cannot read these objects: {error}")
        return None
    if numbers.shape != (height, width):
        told = f"{file}: is {numbers.shape[1]}x{numbers.shape[0]}, but its image {width}x{height}"
        report("mask-broken", file, told)
        return None
    return numbers


def _number(entry: Element, path: str) -> float:
    text = entry.findtext(path)
    key = path.rpartition("/")[2]
    if text is None:
        raise AnnotationError("label-broken", f"no {key}")
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise AnnotationError("box-nan", f"{key} = {text!r}")
    return number


def _image_files(folder: Path) -> dict[str, str]:
    """Name of the image file of each stem: what an annotation says of its own file is often out of date."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    return {os.path.splitext(name)[0]: name for name in names if name.lower().endswith(SUFFIXES)}


def _folder(root: Path, *names: str) -> Path:
    folder = _subfolder(root, *names)
    if folder is None:
        raise DataError(f"{root}: it has no folder {' or '.join(names)}")
    return folder


def _subfolder(root: Path, *names: str) -> Path | None:
    """The folder of one of these names, written in capitals or not."""
    return next((folder for folder in sorted(root.glob("*/")) if folder.name.lower() in names), None)
