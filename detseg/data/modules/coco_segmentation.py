"""Semantic segmentation from COCO's annotations: instances painted on the background, or panoptic segments."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations.images import image_size, read_image
from detseg.data.annotations.masks import Masks, concat_masks
from detseg.data.annotations.semantic import SemanticAnnotations, semantic_masks
from detseg.data.formats.coco.columns import packed_mask, with_packed_masks
from detseg.data.formats.coco.layout import Places, find_only_annotations
from detseg.data.formats.coco.reader import load
from detseg.data.formats.layout import is_path_traversal
from detseg.data.loading.bad_samples import BadSamples
from detseg.data.modules.segmentation import SegmentationDataModule
from detseg.data.splits import Split, train_val_split
from detseg.data.transforms.segmentation import SegmentationTransforms
from detseg.errors import DataError
from detseg.structures import IGNORE_INDEX

log = logging.getLogger(__name__)

BACKGROUND = "background"


class COCOSegmentation(SegmentationDataModule):
    """A folder with annotations in COCO format, of instances or panoptic.

    Files and images are found, and split if need be, as by ``COCO``. Of a file of instances, the classes are the
    background and the categories in the order of their ids; where objects overlap, no one can say which is in front,
    and the pixels are void (as in torchvision's reference training). Of a panoptic file the classes are its categories,
    things and stuff, and a pixel without a segment is void; its label images lie in a folder named like the file.

    ``classes`` takes some of the categories, in this order; the others count as background, or in a panoptic file as
    void. Raises DataError when something that is needed is missing or broken.
    """

    def __init__(
        self,
        root: str,
        train_file: str | None = None,
        val_file: str | None = None,
        train_images: str | None = None,
        val_images: str | None = None,
        classes: list[str] | None = None,
        val_fraction: float = 0.2,
        seed: int = 0,
        transforms: SegmentationTransforms | None = None,
        batch_size: int = 4,
        workers: int = 2,
        bad_samples: BadSamples = "error",
    ) -> None:
        super().__init__(transforms, batch_size, workers, bad_samples)
        self.root = Path(root)
        self.places = Places(
            self.root, {"train": train_file, "val": val_file}, {"train": train_images, "val": val_images}
        )
        self.chosen = classes
        self.val_fraction, self.seed = val_fraction, seed

    def read(self, split: Split) -> SemanticAnnotations:
        """Read the file of a split, or the part of the only file that belongs to it."""
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder; give the place of your data as root")
        if self.places.file("val") is None:
            return self._whole.subset(train_val_split(self._whole, self.val_fraction, self.seed, split))
        file = self.places.file(split)
        if file is None:
            raise DataError(f"{self.root}: no annotation file with train in its name; give train_file")
        return read_coco_maps(file, self.places.folder(file, split), self.chosen)

    @cached_property
    def _whole(self) -> SemanticAnnotations:
        """All of a data set that is not split."""
        file = self.places.file("train")
        split: Split | None = "train" if file else None
        file = file or find_only_annotations(self.root)
        return read_coco_maps(file, self.places.folder(file, split), self.chosen)


def read_coco_maps(file: Path, images: Path, chosen: Sequence[str] | None = None) -> SemanticAnnotations:
    """Read a COCO annotation file whose ``file_name`` are relative to the folder ``images``; images by their ids.

    ``chosen`` are the names of the categories to take, all by default. Raises DataError, naming file and entry, for
    whatever is missing or broken.
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

    owned = _owned(file, content["annotations"], ids)
    maps: ObjectMaps | SegmentMaps
    if panoptic:
        maps = _read_segments(file, owned, sizes, labels, known)
    else:
        maps = _read_objects(file, list(owned.values()), sizes, labels, known)
    return semantic_masks(file, names, numbers, images, files, maps)


@dataclass(frozen=True, eq=False)
class ObjectMaps:
    """Objects with a mask each, painted on the background."""

    file: Path
    sizes: NDArray[np.int64]  # (I, 2)
    offsets: NDArray[np.int64]  # (I + 1,) where the objects of each image begin
    labels: NDArray[np.uint8]  # (N,)
    masks: Masks  # of N objects

    def read(self, row: int) -> NDArray[np.uint8]:
        """Paint the objects of an image."""
        height, width = self.size(row)
        # Column by column, as COCO's run lengths go: several times as fast as across them.
        labels = np.zeros((height, width), dtype=np.uint8, order="F")
        once, twice = (np.zeros((height, width), dtype=bool, order="F") for _ in range(2))
        objects = np.arange(self.offsets[row], self.offsets[row + 1])
        for label, mask in zip(self.labels[objects], self.masks.draw(objects, height, width), strict=True):
            np.copyto(labels, label, where=mask)
            twice |= once & mask
            once |= mask
        np.copyto(labels, IGNORE_INDEX, where=twice)
        return np.ascontiguousarray(labels)

    def size(self, row: int) -> tuple[int, int]:
        """Height and width of an image."""
        height, width = self.sizes[row].tolist()
        return height, width

    def source(self, row: int) -> Path:
        """The file of annotations."""
        return self.file


@dataclass(frozen=True, eq=False)
class SegmentMaps:
    """Images in whose pixels red + 256 green + 65536 blue is the id of a segment (panoptic COCO)."""

    sizes: NDArray[np.int64]  # (I, 2)
    paths: NDArray[np.str_]  # (I,)
    offsets: NDArray[np.int64]  # (I + 1,) where the segments of each image begin
    ids: NDArray[np.int64]  # (S,) rising in each image
    labels: NDArray[np.int64]  # (S,)

    def read(self, row: int) -> NDArray[np.uint8]:
        """The label of each pixel's segment. Raises DataError for an image that is broken or has other segments."""
        path = self.source(row)
        image = read_image(path)
        if image.shape[:2] != self.size(row):
            height, width = self.size(row)
            found = f"{image.shape[1]}x{image.shape[0]}"
            raise DataError(f"{path}: must show the segments of an image of {width}x{height}, but is {found}")
        numbers, where = np.unique(image.astype(np.int64) @ (1, 256, 65536), return_inverse=True)
        own = slice(self.offsets[row], self.offsets[row + 1])
        table = dict(zip(self.ids[own].tolist(), self.labels[own].tolist(), strict=True)) | {0: IGNORE_INDEX}
        unknown = set(numbers.tolist()) - set(table)
        if unknown:
            raise DataError(f"{path}: it shows a segment {min(unknown)}, which its annotation does not list")
        return np.array([table[number] for number in numbers.tolist()], dtype=np.uint8)[where].reshape(image.shape[:2])

    def size(self, row: int) -> tuple[int, int]:
        """Height and width of an image."""
        height, width = self.sizes[row].tolist()
        return height, width

    def source(self, row: int) -> Path:
        """The image of the segments."""
        return Path(str(self.paths[row]))


def _read_objects(
    file: Path, owned: list[list[dict[str, Any]]], sizes: NDArray[np.int64], labels: dict[int, int], known: set[int]
) -> ObjectMaps:
    packed, painted, counts = [], [], [0]
    for entries, (height, width) in zip(owned, sizes.tolist(), strict=True):
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
    owned: dict[Any, list[dict[str, Any]]],
    sizes: NDArray[np.int64],
    labels: dict[int, int],
    known: set[int],
) -> SegmentMaps:
    paths, counts, ids, found = [], [0], [], []
    for image, entries in owned.items():
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
            found.append(labels.get(_category(file, segments[number], entry, known), IGNORE_INDEX))
        counts.append(len(segments))
    return SegmentMaps(
        sizes,
        np.array(paths, dtype=np.str_),
        np.cumsum(counts),
        np.array(ids, dtype=np.int64),
        np.array(found, dtype=np.int64),
    )


def _with_packed_masks(entries: list[dict[str, Any]]) -> None:
    """As ``with_packed_masks``, without the parts of fewer than three points, which cover no pixel."""
    for entry in entries:
        parts = entry.get("segmentation")
        if isinstance(parts, list):
            entry["segmentation"] = [part for part in parts if not isinstance(part, list) or len(part) >= 6]
    with_packed_masks([entry for entry in entries if entry.get("segmentation")])


def _owned(file: Path, entries: list[dict[str, Any]], images: list[Any]) -> dict[Any, list[dict[str, Any]]]:
    """The annotations of each image. Raises DataError if there are some, and none is of an image of the file."""
    owned: dict[Any, list[dict[str, Any]]] = {key: [] for key in images}
    others = []
    for entry in entries:
        number = _value(file, "annotations", entry, "image_id", int, str)
        if number in owned:
            owned[number].append(entry)
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
    return owned


def _by_id(file: Path, section: str, entries: list[dict[str, Any]], *kinds: type) -> dict[Any, dict[str, Any]]:
    """The entries by their ids. Raises DataError if two have the same."""
    found: dict[Any, dict[str, Any]] = {}
    for entry in entries:
        number = _value(file, section, entry, "id", *kinds)
        if number in found:
            raise DataError(f"{file}: more than one entry of {section} has the id {number!r}; make them differ")
        found[number] = entry
    return found


def _categories(file: Path, entries: list[dict[str, Any]], chosen: Sequence[str] | None) -> dict[int, str]:
    """The categories to take, name by id; one of id 0 that stands for the background is not one."""
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


def _value(file: Path, section: str, entry: dict[str, Any], key: str, *kinds: type) -> Any:
    """One value of an entry. Raises DataError if it is missing or of another kind."""
    if not isinstance(entry, dict):
        raise DataError(f"{file}: an entry of {section} is {entry!r}, but must be an object with an id")
    value = entry.get(key)
    if not isinstance(value, kinds) or isinstance(value, bool):
        number = entry.get("id", entry.get("image_id"))
        raise DataError(f"{file}: an entry of {section} (id {number}) has {key} = {value!r}")
    return value


def _inside(file: Path, name: str) -> str:
    """A file name that does not lead out of its folder."""
    if is_path_traversal(name):
        raise DataError(f"{file}: file_name {name!r} leads out of the folder of the images")
    return name
