"""Reader of Pascal VOC annotations of boxes, with masks from SegmentationObject."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detseg.constants import IGNORE_INDEX
from detseg.data.annotations.builder import rotated_boxes
from detseg.data.annotations.detection import DetectionAnnotations, ImageColumns, ObjectColumns, from_columns
from detseg.data.annotations.images import ImageSizes, Orientation, read_numbers
from detseg.data.annotations.issues import FAIL_FAST, AnnotationError, IssueCollector
from detseg.data.annotations.masks import NONE, RLE, WITHOUT, MaskReading, concat_masks
from detseg.data.formats.layout import Tree, parse_xml, read_flag
from detseg.data.formats.voc.layout import label_files, require_folder, subfolder
from detseg.errors import DataError
from detseg.ops.rle import MaskWindow, encode, to_string

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


@dataclass
class Objects:
    """Objects of the files read so far."""

    image_index: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    boxes: list[tuple[float, ...]] = field(default_factory=list)
    difficult: list[bool] = field(default_factory=list)


def read_voc(
    root: Path,
    ids: Sequence[str],
    masks: MaskReading = "none",
    issues: IssueCollector = FAIL_FAST,
    orientation: Orientation = "shown",
) -> DetectionAnnotations:
    """Read the images ``ids`` (file stems) of a folder that holds annotations and images, as ``find_voc`` returns it.

    The classes are the sorted names of the objects, which for VOC itself is the devkit's order. They are numbered from
    1, and so are the objects in the order of reading. Boxes of the files count pixels from 1 and include the last one:
    1 is taken off their first corner. Raises DataError, naming file and object, for missing or broken annotations.
    """
    folder, images = Tree(require_folder(root, "annotations")), Tree(require_folder(root, "jpegimages", "images"))
    pairs: dict[str, str] = {}
    for name in label_files(folder, ids):
        if image := _find_image(folder.root / name, name, images, issues):
            pairs[name] = image
    segments = None if masks == "none" else subfolder(root, "segmentationobject")
    if segments is None and masks in ("all", "valid"):
        raise DataError(f"{root}: its objects have no masks, for want of a folder SegmentationObject; {WITHOUT}")
    return _Reader(folder.root, ImageSizes(images.root, issues, orientation)).read(pairs, segments, masks)


def read_xml(
    tree: Tree,
    files: Sequence[str],
    masks: MaskReading = "none",
    issues: IssueCollector = FAIL_FAST,
    orientation: Orientation = "shown",
) -> DetectionAnnotations:
    """Read annotation files that lie anywhere, paths relative to the root of ``tree``, as ``read_voc`` reads them.

    The image of a file has its stem; where none or several have, it is the one that the file names. Such files have no
    masks.
    """
    pairs: dict[str, str] = {}
    for name in files:
        if image := _find_image(tree.root / name, name, tree, issues):
            pairs[name] = image
    return _Reader(tree.root, ImageSizes(tree.root, issues, orientation)).read(pairs, None, masks)


def _find_image(file: Path, name: str, images: Tree, issues: IssueCollector) -> str | None:
    """Find the image of an annotation file by its stem, else by the name in it; report none or several."""
    candidates = images.images_of(name)
    if len(candidates) == 1:
        return candidates[0]
    element = _parse(file, issues) if file.is_file() else None
    if element is None and file.is_file():
        return None
    named = ("" if element is None else element.findtext("filename") or "").strip().replace("\\", "/")
    candidates = (images.images_of(name, named) if named else []) or candidates
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        issues.report(*images.describe_images(file, candidates)[:3])
    else:
        hint = images.describe_images(file, candidates).message.partition(";")[2]
        message = f"{file}: no image of this name in {images.root}{hint and ';'}{hint}"
        issues.report("image-missing", file, message)
    return None


class _Reader:
    """Reads annotation files below ``folder``, of images below the root of ``image_sizes``."""

    def __init__(self, folder: Path, image_sizes: ImageSizes) -> None:
        self.folder, self.images, self.issues = folder, image_sizes.root, image_sizes.issues
        self.image_sizes = image_sizes
        self.objects = Objects()
        self.zero_based: list[str] = []  # files with a box that begins at 0
        self.parts = 0  # of objects

    def read(self, pairs: Mapping[str, str], segments: Path | None, masks: MaskReading) -> DetectionAnnotations:
        """Read annotation files, each with its image; ``segments`` is the folder of their masks, if it is read."""
        objects = self.objects
        sizes = np.zeros((len(pairs), 2), dtype=np.int32)
        for index, (name, image) in enumerate(pairs.items()):
            path = self.images / image
            sizes[index] = self._read_file(self.folder / name, path, index) or self.image_sizes.read(image)
        files = list(pairs.values())
        self._report(files)
        packed: list[tuple[int, bytes]] = []
        reasons: dict[int, str] = {}
        counts = np.bincount(np.array(objects.image_index, dtype=np.int64), minlength=len(pairs)).tolist()
        if segments:
            for index, name in enumerate(pairs):
                nested = segments / f"{name.removesuffix('.xml')}.png"
                file = nested if nested.is_file() else segments / f"{Path(name).stem}.png"
                parts, missing = self._read_masks(file, counts[index], sizes[index].tolist())
                reasons |= {len(packed) + number: reason for number, reason in missing.items()}
                packed += parts
        names = sorted(set(objects.names))
        label = {name: number for number, name in enumerate(names)}
        return from_columns(
            self.folder,
            {name: number for number, name in enumerate(names, start=1)},
            ImageColumns(
                root=self.images,
                files=files,
                ids=np.array([name.removesuffix(".xml") for name in pairs], dtype=np.str_),
                sizes=sizes,
            ),
            ObjectColumns(
                image_index=np.array(objects.image_index, dtype=np.int64),
                boxes=np.array(objects.boxes, dtype=np.float64).reshape(-1, 4),
                labels=np.array([label[name] for name in objects.names], dtype=np.int64),
                difficult=np.array(objects.difficult, dtype=bool),
                ids=np.arange(1, len(objects.image_index) + 1),
                masks=concat_masks(packed) if segments else None,
            ),
            self.issues,
        ).with_masks(masks, reasons, self.issues)

    def _report(self, files: Sequence[str]) -> None:
        """Report issues of all the ``files`` of images together."""
        if self.zero_based:
            message = (
                f"{self.folder}: {len(self.zero_based)} of {len(files)} files such as {self.zero_based[0]} have "
                "corners of 0, though VOC counts pixels from 1: if a program counted from 0 in all files, all boxes "
                "begin a pixel too far to the left and to the top"
            )
            self.issues.report("box-zero-based", self.folder, message)
        if self.parts:
            self.issues.report(
                "label-unused", self.folder, f"{self.folder}: {self.parts} parts of objects are not read"
            )
        self.image_sizes.report(self.folder, [files[index] for index in self.objects.image_index], self.objects.boxes)

    def _read_file(self, file: Path, image: Path, index: int) -> tuple[int, int] | None:
        """Add the objects of the file of one image; return the image's height and width, None if they are missing."""
        tree = _parse(file, self.issues, image)
        if tree is None:
            return None
        self._check_name(file, tree, image)
        for number, entry in enumerate(tree.iterfind("object"), start=1):
            try:
                name = (entry.findtext("name") or "").strip()
                if not name:
                    raise AnnotationError("label-broken", "no name")
                left, top, right, bottom = (_number(entry, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax"))
                difficult = self._difficult(entry, f"{file}: object {number}", image)
            except AnnotationError as error:
                message = f"{file}: object {number} has {error}"
                self.issues.report(error.kind, file, message, number, image=image)
                continue
            if 0 in (left, top) and self.zero_based[-1:] != [file.name] and min(right, bottom) > 1:
                self.zero_based.append(file.name)
            # One pixel wide by the rule, yet in practice a slip of the mouse: made empty, so it is dropped and logged.
            empty = right <= left or bottom <= top
            self.objects.image_index.append(index)
            self.objects.names.append(name)
            self.parts += len(entry.findall("part"))
            box = (left, top, right, bottom) if empty else (left - 1, top - 1, right, bottom)
            self.objects.boxes.append(self._turned(entry, box, f"{file}: object {number}", image))
            self.objects.difficult.append(difficult)
        try:
            height, width = int(_number(tree, "size/height")), int(_number(tree, "size/width"))
        except AnnotationError:
            return None
        return (height, width) if height > 0 and width > 0 else None

    def _check_name(self, file: Path, tree: Element, image: Path) -> None:
        """Report a file that names another image than the one of its stem, if both are there."""
        name = PurePosixPath((tree.findtext("filename") or "").strip().replace("\\", "/")).name
        if name and PurePosixPath(name).stem != image.stem and image.with_name(name).is_file():
            message = f"{file}: its filename is {name}, but its name is that of {image.name}; correct one of them"
            self.issues.report("image-ambiguous", file, message, image=image)

    def _difficult(self, entry: Element, subject: str, image: Path) -> bool:
        """Read the flag of an object, and report one that means nothing."""
        text = entry.findtext("difficult")
        flag = read_flag(text)
        if flag is None:
            self.issues.report("flag-unknown", image, f"{subject} has difficult = {text!r}")
        return bool(flag)

    def _turned(self, entry: Element, box: tuple[float, ...], subject: str, image: Path) -> tuple[float, ...]:
        """Return the box around a rotated one, as CVAT states it by an attribute, and report it."""
        for attribute in entry.iterfind("attributes/attribute"):
            if attribute.findtext("name") == "rotation" and (degrees := _number(attribute, "value")) % 360:
                message = f"{subject} is rotated by {degrees:g} degrees, and becomes the box around it"
                self.issues.report("shape-unsupported", image, message)
                box = tuple(rotated_boxes(np.array([box]), np.array([degrees]))[0].tolist())
        return box

    def _report_mask(self, file: Path, message: str, number: int | None = None) -> None:
        """Report masks that cannot be used. Raises DataError, unless issues are collected."""
        if not self.issues.collects:
            raise DataError(message)
        self.issues.report("mask-broken", file, message, number)

    def _read_masks(
        self, file: Path, count: int, size: tuple[int, int]
    ) -> tuple[list[tuple[int, bytes]], dict[int, str]]:
        """Read the masks of the ``count`` objects of one image; tell by an object's number why it has none."""
        none = [(NONE, b"")] * count
        if not file.exists():
            absent = "has no mask" if self.issues.collects else f"has no {file}"  # not every image of a set has them
            return none, dict.fromkeys(range(1, count + 1), absent)
        numbers = self._read_numbers(file, *size)
        if numbers is None:
            return none, {}
        shown = set(np.unique(numbers).tolist()) - {0, IGNORE_INDEX}
        if shown and max(shown) > count:
            message = f"{file}: shows an object {max(shown)}, but the annotation of {file.stem} lists {count}"
            self._report_mask(file, message, max(shown))
        masks, reasons = [], {}
        for number in range(1, count + 1):
            if number not in shown:
                reasons[number] = f"(object {number} of its file) has no pixel in {file}"
                masks.append((NONE, b""))
                continue
            masks.append((RLE, to_string(encode(MaskWindow(0, 0, (numbers == number).T), *size))))
        return masks, reasons

    def _read_numbers(self, file: Path, height: int, width: int) -> NDArray[Any] | None:
        """Read the object number of each pixel; None for a file that cannot be used, if issues are collected."""
        try:
            numbers = read_numbers(file)
        except DataError as error:
            self._report_mask(file, str(error))
            return None
        if numbers.shape != (height, width):
            message = f"{file}: is {numbers.shape[1]}x{numbers.shape[0]}, but its image {width}x{height}"
            self._report_mask(file, message)
            return None
        return numbers


def _parse(file: Path, issues: IssueCollector, image: Path | None = None) -> Element | None:
    """Parse the annotation file of an image; None for a broken one, if issues are collected."""
    try:
        return parse_xml(file, "annotation")
    except DataError as error:
        issues.report("label-broken", file, str(error), image=image)
        return None


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
