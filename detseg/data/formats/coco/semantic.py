"""Semantic segmentation from COCO's annotations: instances painted on the background, or panoptic segments."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.constants import IGNORE_INDEX
from detseg.data.annotations.images import image_size, read_image
from detseg.data.annotations.issues import FAIL_FAST, IssueCollector
from detseg.data.annotations.masks import MaskReading, Masks, concat_masks
from detseg.data.annotations.semantic import SemanticAnnotations, semantic_masks
from detseg.data.formats.base import DatasetSource
from detseg.data.formats.coco.columns import packed_mask, with_packed_masks
from detseg.data.formats.coco.detection import CocoFiles
from detseg.data.formats.coco.reader import load
from detseg.data.formats.layout import Tree, contains_keys, ends_with
from detseg.errors import DataError
from detseg.folders import is_path_traversal

log = logging.getLogger(__name__)

BACKGROUND = "background"


class CocoSemanticFormat(CocoFiles):
    """Semantic masks from annotation files of instances, or panoptic ones.

    Of a file of instances, the classes are the background and the categories in the order of their ids; where objects
    overlap, their order is unknown, and the pixels are void (as in torchvision's reference training). Of a panoptic
    file the classes are its categories, things and stuff, and a pixel without a segment is void; its label images lie
    in a folder named like the file.

    ``classes`` selects categories, in this order; the others count as background, or in a panoptic file as void.
    ``images`` are folders of images by split, by default found.
    """

    name = "COCO"
    tasks = ("semantic_segmentation",)
    marks = ".json with images, annotations, categories"

    def __init__(self, classes: list[str] | None = None, images: dict[str, str] | None = None, **settings: Any) -> None:
        super().__init__(images, **settings)
        self.classes = classes

    def detect(self, tree: Tree) -> list[DatasetSource]:
        """Take a folder with files whose names are those of COCO annotations."""
        try:
            source = self.open(tree.root)
        except DataError as error:
            return [DatasetSource(self, tree, tree.root, {}, problem=str(error))]
        files = [part.file for part in source.splits.values()]
        if any(contains_keys(file, "images", "annotations", "categories") or _is_cut(file) for file in files):
            return [source]
        problem = f"no images, annotations and categories of COCO in {', '.join(map(str, files))}"
        return [replace(source, splits={}, problem=problem)]

    def read(
        self, source: DatasetSource, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
    ) -> SemanticAnnotations:
        """Read the file of a split."""
        part = source.splits[split]
        return read_coco_semantic(part.file, self._folder(source, part, issues), self.classes)


def _is_cut(file: Path) -> bool:
    """Tell if a file begins like COCO annotations and is cut off: then it is broken, and not of another format."""
    return contains_keys(file, "images") and not ends_with(file, b"}")


def read_coco_semantic(file: Path, images: Path, chosen: Sequence[str] | None = None) -> SemanticAnnotations:
    """Read a COCO annotation file whose ``file_name`` are relative to the folder ``images``; images by their ids.

    ``chosen`` are the names of the categories to take, all by default. Raises DataError, naming file and entry, for
    missing or broken labels.
    """
    content = load(file, _with_packed_masks)
    panoptic = any("segments_info" in entry for entry in content["annotations"])
    categories = _categories(file, content["categories"], chosen)
    names = [*([] if panoptic else [BACKGROUND]), *categories.values()]
    numbers = [*([] if panoptic else [0]), *categories]
    labels = {number: label for label, number in enumerate(numbers) if number in categories}
    known = {entry["id"] for entry in content["categories"]}

    pictures = _by_id(file, "images", content["images"], int, str)
    ids = sorted(pictures, key=lambda key: (isinstance(key, str), key))
    files = [_value(file, "images", pictures[key], "file_name", str) for key in ids]
    for name in files:
        _inside(file, name)
    sizes = np.zeros((len(ids), 2), dtype=np.int64)
    for row, key in enumerate(ids):
        size = tuple(pictures[key].get(side) for side in ("height", "width"))
        given = all(isinstance(length, int) and 0 < length < 2**31 for length in size)
        sizes[row] = np.array(size if given else image_size(images / files[row]))

    by_image = _by_image(file, content["annotations"], ids)
    maps: ObjectMaps | SegmentMaps
    if panoptic:
        maps = _read_segments(file, by_image, sizes, labels, known)
    else:
        maps = _read_objects(file, list(by_image.values()), sizes, labels, known)
    return semantic_masks(file, names, numbers, images, files, maps)


@dataclass(frozen=True, eq=False)
class ObjectMaps:
    """Objects with a mask each, painted on the background."""

    file: Path
    sizes: NDArray[np.int64]  # (I, 2)
    offsets: NDArray[np.int64]  # (I + 1,) where the objects of each image begin
    labels: NDArray[np.uint8]  # (N,)
    masks: Masks  # of N objects

    def read(self, index: int, issues: IssueCollector = FAIL_FAST) -> NDArray[np.uint8]:
        """Paint the objects of an image."""
        height, width = self.size(index)
        # Column by column, as COCO's RLE goes: several times as fast as across them.
        labels = np.zeros((height, width), dtype=np.uint8, order="F")
        once, twice = (np.zeros((height, width), dtype=bool, order="F") for _ in range(2))
        objects = np.arange(self.offsets[index], self.offsets[index + 1])
        for label, mask in zip(self.labels[objects], self.masks.draw(objects, height, width), strict=True):
            np.copyto(labels, label, where=mask)
            twice |= once & mask
            once |= mask
        np.copyto(labels, IGNORE_INDEX, where=twice)
        return np.ascontiguousarray(labels)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of an image."""
        height, width = self.sizes[index].tolist()
        return height, width

    def source(self, index: int) -> Path:
        """Annotation file."""
        return self.file


@dataclass(frozen=True, eq=False)
class SegmentMaps:
    """Images in whose pixels red + 256 green + 65536 blue is the id of a segment (panoptic COCO)."""

    sizes: NDArray[np.int64]  # (I, 2)
    paths: NDArray[np.str_]  # (I,)
    offsets: NDArray[np.int64]  # (I + 1,) where the segments of each image begin
    ids: NDArray[np.int64]  # (S,) rising in each image
    labels: NDArray[np.int64]  # (S,)

    def read(self, index: int, issues: IssueCollector = FAIL_FAST) -> NDArray[np.uint8]:
        """Look up the label of each pixel's segment. Raises DataError for a broken image, or unknown segments."""
        path = self.source(index)
        image = read_image(path)
        if image.shape[:2] != self.size(index):
            height, width = self.size(index)
            actual = f"{image.shape[1]}x{image.shape[0]}"
            raise DataError(f"{path}: must show the segments of an image of {width}x{height}, but is {actual}")
        numbers, where = np.unique(image.astype(np.int64) @ (1, 256, 65536), return_inverse=True)
        segments = slice(self.offsets[index], self.offsets[index + 1])
        table = dict(zip(self.ids[segments].tolist(), self.labels[segments].tolist(), strict=True)) | {0: IGNORE_INDEX}
        unknown = set(numbers.tolist()) - set(table)
        if unknown:
            raise DataError(f"{path}: it shows a segment {min(unknown)}, which its annotation does not list")
        return np.array([table[number] for number in numbers.tolist()], dtype=np.uint8)[where].reshape(image.shape[:2])

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of an image."""
        height, width = self.sizes[index].tolist()
        return height, width

    def source(self, index: int) -> Path:
        """Image of the segments."""
        return Path(str(self.paths[index]))


def _read_objects(
    file: Path, by_image: list[list[dict[str, Any]]], sizes: NDArray[np.int64], labels: dict[int, int], known: set[int]
) -> ObjectMaps:
    packed, painted, counts = [], [], [0]
    for entries, (height, width) in zip(by_image, sizes.tolist(), strict=True):
        for entry in entries:
            label = labels.get(_category(file, entry, entry, known))
            segmentation = entry.get("segmentation")
            if segmentation is None:
                raise DataError(f"{file}: annotation {entry.get('id')} has no segmentation; a box does not tell pixels")
            if label is None or segmentation == []:
                continue
            try:
                packed.append(packed_mask(segmentation, height, width))
            except ValueError as error:
                raise DataError(f"{file}: annotation {entry.get('id')} has a broken segmentation ({error})") from None
            painted.append(label)
        counts.append(len(painted))
    return ObjectMaps(file, sizes, np.array(counts), np.array(painted, dtype=np.uint8), concat_masks(packed))


def _read_segments(
    file: Path,
    by_image: dict[Any, list[dict[str, Any]]],
    sizes: NDArray[np.int64],
    labels: dict[int, int],
    known: set[int],
) -> SegmentMaps:
    paths, counts, ids, segment_labels = [], [0], [], []
    for image, entries in by_image.items():
        if len(entries) != 1 or not isinstance(entries[0].get("segments_info"), list):
            have = f"{len(entries)} annotations" if len(entries) != 1 else "one without"
            raise DataError(f"{file}: each image must have one annotation with segments_info; image {image} has {have}")
        (entry,) = entries
        name = _inside(file, _value(file, "annotations", entry, "file_name", str))
        paths.append(str(file.with_suffix("") / name))
        segments = _by_id(file, f"segments_info of image {image}", entry["segments_info"], int)
        for number in sorted(segments):
            if not 0 < number < 256**3:
                raise DataError(
                    f"{file}: image {image} has a segment {number}; red + 256 green + 65536 blue can be 1 to "
                    f"{256**3 - 1}, and 0 is void"
                )
            ids.append(number)
            segment_labels.append(labels.get(_category(file, segments[number], entry, known), IGNORE_INDEX))
        counts.append(len(segments))
    return SegmentMaps(
        sizes,
        np.array(paths, dtype=np.str_),
        np.cumsum(counts),
        np.array(ids, dtype=np.int64),
        np.array(segment_labels, dtype=np.int64),
    )


def _with_packed_masks(entries: list[dict[str, Any]]) -> None:
    """Pack polygons as ``with_packed_masks``, without parts of fewer than three points, which cover no pixel."""
    for entry in entries:
        parts = entry.get("segmentation")
        if isinstance(parts, list):
            entry["segmentation"] = [part for part in parts if not isinstance(part, list) or len(part) >= 6]
    with_packed_masks([entry for entry in entries if entry.get("segmentation")])


def _by_image(file: Path, entries: list[dict[str, Any]], images: list[Any]) -> dict[Any, list[dict[str, Any]]]:
    """Group annotations by image. Raises DataError if none is of an image that the file lists."""
    groups: dict[Any, list[dict[str, Any]]] = {key: [] for key in images}
    others = []
    for entry in entries:
        number = _value(file, "annotations", entry, "image_id", int, str)
        if number in groups:
            groups[number].append(entry)
        else:
            others.append(number)
    if others and len(others) == len(entries):
        example = f"the images {images[0]!r}" if images else "there are no images"
        raise DataError(
            f"{file}: no annotation is of an image that it lists: annotations have image_id such as {others[0]!r}, "
            f"{example}; make them the same numbers or texts"
        )
    if others:
        log.warning("%s: left out %d annotations of images it does not list", file, len(others))
    return groups


def _by_id(file: Path, section: str, entries: list[dict[str, Any]], *types: type) -> dict[Any, dict[str, Any]]:
    """Map ids to entries. Raises DataError if two have the same id."""
    by_id: dict[Any, dict[str, Any]] = {}
    for entry in entries:
        number = _value(file, section, entry, "id", *types)
        if number in by_id:
            raise DataError(f"{file}: more than one entry of {section} has the id {number!r}; make them differ")
        by_id[number] = entry
    return by_id


def _categories(file: Path, entries: list[dict[str, Any]], chosen: Sequence[str] | None) -> dict[int, str]:
    """Map the ids of the chosen categories to names, without a placeholder of id 0 for the background."""
    names = {
        number: _value(file, "categories", entry, "name", str)
        for number, entry in sorted(_by_id(file, "categories", entries, int).items())
        if number != 0 or str(entry.get("name")).strip("_").lower() != BACKGROUND
    }
    if chosen is None:
        return names
    ids = {name: number for number, name in names.items()}
    missing = [name for name in chosen if name not in ids]
    if missing:
        raise DataError(f"{file}: it has no category {missing[0]}; its categories are {', '.join(ids)}")
    return {ids[name]: name for name in chosen}


def _category(file: Path, entry: dict[str, Any], annotation: dict[str, Any], known: set[int]) -> int:
    number: int = _value(file, "annotations", entry, "category_id", int)
    if number not in known:
        name = annotation.get("id", annotation.get("file_name"))
        raise DataError(f"{file}: annotation {name} has category_id {number}, which is not in the categories")
    return number


def _value(file: Path, section: str, entry: dict[str, Any], key: str, *types: type) -> Any:
    """Take one value of an entry. Raises DataError if it is missing or of another type."""
    if not isinstance(entry, dict):
        raise DataError(f"{file}: an entry of {section} is {entry!r}, but must be an object with an id")
    value = entry.get(key)
    if not isinstance(value, types) or isinstance(value, bool):
        number = entry.get("id", entry.get("image_id"))
        raise DataError(f"{file}: an entry of {section} (id {number}) has {key} = {value!r}")
    return value


def _inside(file: Path, name: str) -> str:
    """Check that a file name does not lead out of its folder. Raises DataError."""
    if is_path_traversal(name):
        raise DataError(f"{file}: file_name {name!r} leads out of the folder of the images")
    return name
