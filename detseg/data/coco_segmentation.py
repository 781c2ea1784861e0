"""Semantic segmentation from COCO's annotations: instances painted on the background, or panoptic segments."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.data.bad_samples import BadSamples
from detseg.data.base import split_rows
from detseg.data.coco_format import Places, Split, find_only_annotations, load
from detseg.data.images import image_size
from detseg.data.label_maps import LabelMaps, label_maps
from detseg.data.segmentation import SegmentationData
from detseg.data.segmentation_transforms import SegmentationTransforms
from detseg.errors import DataError
from detseg.structures import VOID

BACKGROUND = "background"


class COCOSegmentation(SegmentationData):
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
        self.val_fraction = val_fraction

    def read(self, split: Split) -> LabelMaps:
        """Read the file of a split, or the part of the only file that belongs to it."""
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder; give the place of your data as root")
        if self.places.file("val") is None:
            return self._whole.subset(split_rows(len(self._whole), self.val_fraction, split))
        file = self.places.file(split)
        if file is None:
            raise DataError(f"{self.root}: no annotation file with train in its name; give train_file")
        return read_coco_maps(file, self.places.folder(file, split), self.chosen)

    @cached_property
    def _whole(self) -> LabelMaps:
        """All of a data set that is not split."""
        file = self.places.file("train")
        split: Split | None = "train" if file else None
        file = file or find_only_annotations(self.root)
        return read_coco_maps(file, self.places.folder(file, split), self.chosen)


def read_coco_maps(file: Path, images: Path, chosen: Sequence[str] | None = None) -> LabelMaps:
    """Read a COCO annotation file whose ``file_name`` are relative to the folder ``images``; images by their ids.

    ``chosen`` are the names of the categories to take, all by default. Raises DataError, naming file and entry, for
    whatever is missing or broken.
    """
    content = load(file, _text_for_mask)
    panoptic = any("segments_info" in entry for entry in content["annotations"])
    categories = _categories(file, content["categories"], chosen)
    names = [*([] if panoptic else [BACKGROUND]), *categories.values()]
    numbers = [*([] if panoptic else [0]), *categories]
    labels = {number: label for label, number in enumerate(numbers) if number in categories}
    known = {_value(file, "categories", entry, "id", int) for entry in content["categories"]}

    pictures = {_value(file, "images", entry, "id", int, str): entry for entry in content["images"]}
    ids = sorted(pictures, key=lambda key: (isinstance(key, str), key))
    files = [_value(file, "images", pictures[key], "file_name", str) for key in ids]
    for name in files:
        _inside(file, name)
    sizes = np.zeros((len(ids), 2), dtype=np.int64)
    for row, key in enumerate(ids):
        size = tuple(pictures[key].get(side) for side in ("height", "width"))
        given = all(isinstance(length, int) and length > 0 for length in size)
        sizes[row] = np.array(size if given else image_size(images / files[row]))

    owned: dict[Any, list[dict[str, Any]]] = {key: [] for key in ids}
    for entry in content["annotations"]:
        owned.get(_value(file, "annotations", entry, "image_id", int, str), []).append(entry)
    read = _read_segments if panoptic else _read_objects
    maps = read(file, [owned[key] for key in ids], sizes, labels, known)
    return label_maps(file, names, numbers, images, files, maps)


@dataclass(frozen=True, eq=False)
class ObjectMaps:
    """Objects with a mask each, painted on the background. Masks are kept as text: one array, whatever their kind."""

    file: Path
    sizes: NDArray[np.int64]  # (I, 2)
    offsets: NDArray[np.int64]  # (I + 1,) where the text of each image begins
    text: NDArray[np.uint8]  # JSON: for each object its id, label and COCO's segmentation

    def read(self, row: int) -> NDArray[np.uint8]:
        """Paint the objects of an image. Raises DataError for a mask that is broken."""
        height, width = self.size(row)
        # Column by column, as COCO's run lengths go: several times as fast as across them.
        labels = np.zeros((height, width), dtype=np.uint8, order="F")
        once, twice = (np.zeros((height, width), dtype=bool, order="F") for _ in range(2))
        objects = json.loads(self.text[self.offsets[row] : self.offsets[row + 1]].tobytes())
        for number, label, segmentation in objects:
            try:
                mask = _mask(segmentation, height, width)
            except Exception as error:  # the decoder meets broken masks with many kinds of errors
                raise DataError(f"{self.file}: annotation {number} has a broken segmentation: {error}") from None
            np.copyto(labels, label, where=mask)
            twice |= once & mask
            once |= mask
        np.copyto(labels, VOID, where=twice)
        return np.ascontiguousarray(labels)

    def size(self, row: int) -> tuple[int, int]:
        """Height and width of an image."""
        height, width = self.sizes[row].tolist()
        return height, width


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
        path = Path(str(self.paths[row]))
        try:
            image = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_COLOR_RGB)
        except (OSError, cv2.error) as error:
            raise DataError(f"{path}: cannot read these segments: {error}") from None
        if image is None or image.shape[:2] != self.size(row):
            height, width = self.size(row)
            found = "no image" if image is None else f"{image.shape[1]}x{image.shape[0]}"
            raise DataError(f"{path}: must show the segments of an image of {width}x{height}, but is {found}")
        numbers, where = np.unique(image.astype(np.int64) @ (1, 256, 65536), return_inverse=True)
        own = slice(self.offsets[row], self.offsets[row + 1])
        table = dict(zip(self.ids[own].tolist(), self.labels[own].tolist(), strict=True)) | {0: VOID}
        unknown = set(numbers.tolist()) - set(table)
        if unknown:
            raise DataError(f"{path}: it shows a segment {min(unknown)}, which its annotation does not list")
        return np.array([table[number] for number in numbers.tolist()], dtype=np.uint8)[where].reshape(image.shape[:2])

    def size(self, row: int) -> tuple[int, int]:
        """Height and width of an image."""
        height, width = self.sizes[row].tolist()
        return height, width


def _read_objects(
    file: Path, owned: list[list[dict[str, Any]]], sizes: NDArray[np.int64], labels: dict[int, int], known: set[int]
) -> ObjectMaps:
    texts = []
    for entries in owned:
        objects = []
        for entry in entries:
            label = labels.get(_category(file, entry, entry, known))
            if entry.get("segmentation") is None:
                raise DataError(f"{file}: annotation {entry.get('id')} has no segmentation; a box does not tell pixels")
            if label is not None:
                objects.append(f"[{json.dumps(entry.get('id'))},{label},{entry['segmentation']}]")
        texts.append(f"[{','.join(objects)}]".encode())
    offsets = np.cumsum([0, *map(len, texts)])
    return ObjectMaps(file, sizes, offsets, np.frombuffer(b"".join(texts), dtype=np.uint8))


def _read_segments(
    file: Path, owned: list[list[dict[str, Any]]], sizes: NDArray[np.int64], labels: dict[int, int], known: set[int]
) -> SegmentMaps:
    paths, counts, ids, found = [], [0], [], []
    for entries in owned:
        if len(entries) != 1 or not isinstance(entries[0].get("segments_info"), list):
            raise DataError(f"{file}: each image must have one annotation with segments_info, one has {len(entries)}")
        name = _inside(file, _value(file, "annotations", entries[0], "file_name", str))
        paths.append(str(file.with_suffix("") / name))
        segments = sorted(
            entries[0]["segments_info"], key=lambda entry: _value(file, "segments_info", entry, "id", int)
        )
        ids += [segment["id"] for segment in segments]
        found += [labels.get(_category(file, segment, entries[0], known), VOID) for segment in segments]
        counts.append(len(segments))
    return SegmentMaps(
        sizes,
        np.array(paths, dtype=np.str_),
        np.cumsum(counts),
        np.array(ids, dtype=np.int64),
        np.array(found, dtype=np.int64),
    )


def _text_for_mask(entry: dict[str, Any]) -> dict[str, Any]:
    """Keep each mask as text: as lists of numbers they would take many times the memory."""
    if entry.get("segmentation") is not None:
        entry["segmentation"] = json.dumps(entry["segmentation"])
    return entry


def _categories(file: Path, entries: list[dict[str, Any]], chosen: Sequence[str] | None) -> dict[int, str]:
    """The categories to take, name by id; one of id 0 that stands for the background is not one."""
    names = {
        _value(file, "categories", entry, "id", int): _value(file, "categories", entry, "name", str)
        for entry in sorted(entries, key=lambda entry: _value(file, "categories", entry, "id", int))
        if entry["id"] != 0 or str(entry.get("name")).strip("_").lower() != BACKGROUND
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
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, kinds):
        raise DataError(f"{file}: an entry of {section} (id {entry.get('id')}) has {key} = {value!r}")
    return value


def _inside(file: Path, name: str) -> str:
    """A file name that does not lead out of its folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{file}: file_name {name!r} leads out of the folder of the images")
    return name


def _mask(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """The pixels inside polygons, or of run lengths, as COCO draws them. Raises some error for what is neither."""
    from faster_coco_eval.core import mask

    if isinstance(segmentation, list):
        polygons = [points for points in segmentation if len(points) >= 6]
        if not polygons:
            return np.zeros((height, width), dtype=bool)
        runs = mask.merge(mask.frPyObjects(polygons, height, width))
    else:
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(f"it is {segmentation['size']} pixels high and wide, its image {[height, width]}")
        counts = segmentation["counts"]
        runs = segmentation if isinstance(counts, str) else mask.frPyObjects(segmentation, height, width)
    decoded: NDArray[np.bool_] = np.asarray(mask.decode(runs)).astype(bool, order="F")
    return decoded
