"""COCO annotation files: the reader, and where they lie in the usual layouts of folders."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from itertools import islice, product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations import Annotations, pack
from detseg.data.images import image_size
from detseg.data.layout import WORDS
from detseg.data.masks import NONE, POLYGONS, RUNS, Masks, MaskUse, pack_masks, pack_polygons, pack_runs
from detseg.data.reports import collects, shifted
from detseg.errors import DataError

log = logging.getLogger(__name__)

Split = Literal["train", "val"]

FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')


def read_coco(file: Path, images: Path, masks: MaskUse = "none") -> Annotations:
    """Read a COCO annotation file whose ``file_name`` are relative to the folder ``images``.

    Images come in the order of their ids, objects in the order of the file, classes in the order of their ids. Raises
    DataError, naming file and entry, for whatever is missing or broken; ``masks`` says whether masks are.
    """
    content = load(file, without_mask if masks == "none" else with_packed_mask)
    if collects():
        from detseg.data.coco_faults import sound

        content = sound(file, content)
    pictures = content["images"]
    image_ids = _ids(file, "images", pictures, "id")
    order = np.argsort(image_ids, kind="stable")
    image_ids = image_ids[order]
    if len(twice := image_ids[1:][image_ids[1:] == image_ids[:-1]]):
        raise DataError(f"{file}: more than one image has the id {twice[0]}")
    files = _column(file, "images", pictures, "file_name", np.str_)[order]
    sizes = [_column(file, "images", pictures, key, np.int32, default=0)[order] for key in ("height", "width")]

    annotations = content["annotations"]
    pictured = _ids(file, "annotations", annotations, "image_id")
    rows = np.searchsorted(image_ids, pictured).clip(0, max(len(image_ids) - 1, 0))
    known = image_ids[rows] == pictured if len(image_ids) else np.zeros(len(annotations), dtype=bool)
    if len(known) and not known.any():
        example = f"{pictured[0].item()!r}, the images {image_ids[0].item()!r}" if len(image_ids) else "any, no images"
        raise DataError(
            f"{file}: no annotation is of an image that it lists: annotations have image_id such as {example}; "
            "make them the same numbers or texts"
        )
    if not known.all():
        log.warning("%s: left out %d annotations of images it does not list", file, (~known).sum())
        annotations = [entry for entry, kept in zip(annotations, known, strict=True) if kept]
        rows = rows[known]

    ids = _column(file, "annotations", annotations, "id", np.int64)
    categories = _column(file, "annotations", annotations, "category_id", np.int64)
    names, category_ids = _classes(file, content["categories"], set(np.unique(categories).tolist()))
    labels = np.searchsorted(category_ids, categories).clip(0, max(len(category_ids) - 1, 0))
    for i in np.flatnonzero(np.asarray(category_ids)[labels] != categories)[:1]:
        shift = shifted(categories.tolist(), category_ids)
        told = f"; {shift}" if shift else ""
        raise DataError(
            f"{file}: annotation {ids[i]} has category_id {categories[i]}, which is not in the categories{told}"
        )

    boxes = _column(file, "annotations", annotations, "bbox", np.float64, shape=(4,))
    complete = _complete(np.stack(sizes, axis=1), files, images)
    packed, reasons = (None, {}) if masks == "none" else _masks(annotations, ids, complete[rows])
    return pack(
        file,
        classes=names,
        category_ids=category_ids,
        root=images,
        files=files,
        image_ids=image_ids,
        sizes=complete,
        rows=rows,
        boxes=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
        labels=labels,
        areas=_column(file, "annotations", annotations, "area", np.float64, default=np.nan),
        crowd=_column(file, "annotations", annotations, "iscrowd", np.int64, default=0) > 0,
        ids=ids,
        masks=packed,
    ).with_masks(masks, reasons)


def without_mask(entry: dict[str, Any]) -> dict[str, Any]:
    """Forget the mask of an annotation: they are most of a file."""
    entry.pop("segmentation", None)
    return entry


def with_packed_mask(entry: dict[str, Any]) -> dict[str, Any]:
    """Pack the polygons of an annotation: as lists of numbers they would take many times the memory."""
    if isinstance(entry.get("segmentation"), list):
        try:
            entry["segmentation"] = pack_polygons(entry["segmentation"])
        except ValueError as error:
            entry["segmentation"] = error
    return entry


def _masks(
    entries: list[dict[str, Any]], ids: NDArray[np.int64], sizes: NDArray[np.int32]
) -> tuple[Masks, dict[int, str]]:
    """The masks of annotations whose images have ``sizes`` (N, 2), and by id what is wrong with some."""
    packed, reasons = [], {}
    for entry, number, (height, width) in zip(entries, ids.tolist(), sizes.tolist(), strict=True):
        found = entry.get("segmentation")
        try:
            if isinstance(found, bytes):
                packed.append((POLYGONS, found))
            elif isinstance(found, dict):
                packed.append((RUNS, pack_runs(found.get("counts"), found.get("size"), height, width)))
            else:
                raise found if isinstance(found, ValueError) else ValueError(f"has segmentation = {found!r}")
        except ValueError as error:
            packed.append((NONE, b""))
            reasons[number] = str(error)
    return pack_masks(packed), reasons


def load(file: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Parse an annotation file, each object in it changed as soon as it is read. Raises DataError."""
    try:
        content = json.loads(file.read_bytes(), object_hook=change)
    except OSError as error:
        raise DataError(f"{file}: cannot read this annotation file: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: broken JSON: {error}") from None
    for key in ("images", "annotations", "categories"):
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DataError(f"{file}: not a COCO annotation file: it has no list of '{key}'")
    return content  # type: ignore[no-any-return]


def _column(
    file: Path,
    section: str,
    entries: list[dict[str, Any]],
    key: str,
    dtype: type[np.generic],
    default: Any = None,
    shape: tuple[int, ...] = (),
) -> NDArray[Any]:
    """Take one value of each entry; DataError names the first entry where it is missing or of another kind."""

    def value(entry: dict[str, Any]) -> Any:
        found = entry.get(key)
        return default if found is None else found

    def convert(values: list[Any]) -> NDArray[Any]:
        if any(item is None for item in values):
            raise ValueError("missing")
        if not shape and any(isinstance(item, (list, dict)) for item in values):
            raise ValueError("not one value")
        array = np.array(values, dtype=dtype).reshape(len(values), *shape)
        if default is None and dtype is np.float64 and not np.isfinite(array).all():
            raise ValueError("not a number")
        return array

    try:
        return convert([value(entry) for entry in entries])
    except (ValueError, TypeError, OverflowError):
        for position, entry in enumerate(entries):
            try:
                convert([value(entry)])
            except (ValueError, TypeError, OverflowError):
                name = f"{section}[{position}] (id {entry.get('id')})"
                raise DataError(f"{file}: {name} has {key} = {entry.get(key)!r}") from None
        raise


def _ids(file: Path, section: str, entries: list[dict[str, Any]], key: str) -> NDArray[Any]:
    """Image ids, which are numbers in COCO and text in some other people's files."""
    numbers = all(isinstance(entry.get(key), int) for entry in entries)
    return _column(file, section, entries, key, np.int64 if numbers else np.str_)


def _classes(file: Path, categories: list[dict[str, Any]], used: set[int]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and ids, in the order of ids, without a placeholder of id 0 that stands for the background or for all."""
    ids = _column(file, "categories", categories, "id", np.int64).tolist()
    names = _column(file, "categories", categories, "name", np.str_).tolist()
    parents = {str(entry.get("supercategory")) for entry in categories if entry.get("id") != 0}
    classes = sorted(
        (number, name)
        for number, name in zip(ids, names, strict=True)
        if number != 0 or number in used or not (name in parents or name.strip("_").lower() == "background")
    )
    if not classes:
        raise DataError(f"{file}: it has no categories")
    for values in zip(*classes, strict=True):
        if len(set(values)) < len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise DataError(f"{file}: more than one category has the name or id {twice!r}; make them differ")
    return tuple(name for _, name in classes), tuple(number for number, _ in classes)


def _complete(sizes: NDArray[np.int32], files: NDArray[np.str_], images: Path) -> NDArray[np.int32]:
    """Read from the images the sizes that the annotations do not give."""
    for row in np.flatnonzero((sizes <= 0).any(axis=1)):
        sizes[row] = image_size(images / str(files[row]))
    return sizes


class Places(NamedTuple):
    """Where the annotation files and images of a data set are: given, as paths or relative to ``root``, or found."""

    root: Path
    files: Mapping[str, str | None]  # by split
    images: Mapping[str, str | None]

    def file(self, split: Split) -> Path | None:
        """The annotation file of a split; of one for training, None means that there is one for all."""
        given = self.files[split]
        return self.root / given if given else find_annotations(self.root, split)

    def folder(self, file: Path, split: Split | None) -> Path:
        """The images of an annotation file, that of a split or of all."""
        given = self.images[split or "train"]
        return self.root / given if given else find_images(self.root, file, split)


def find_annotations(root: Path, split: Split) -> Path | None:
    """Look for the annotation file of a split below ``root``; None if there is none.

    ``val`` is served by a test split where nothing is called val. Raises DataError where several files would do.
    """
    for word in ("train",) if split == "train" else ("val", "test"):
        ranked = [
            (rank, file) for file in _json_files(root) if (rank := _rank(file.relative_to(root), word)) is not None
        ]
        best = [file for rank, file in ranked if rank == min(ranked)[0]]
        if len(best) > 1:
            raise DataError(f"{root}: several files could be the {split} split: {_names(best)}; give {split}_file")
        if best:
            return best[0]
    return None


def find_only_annotations(root: Path) -> Path:
    """Look for the one annotation file of a data set that is not split. Raises DataError if it is not one."""
    files = [f for f in _json_files(root) if all(_rank(f.relative_to(root), word) is None for word in WORDS)]
    if len(files) == 1:
        return files[0]
    found = f"found {_names(files)}" if files else "found none"
    raise DataError(
        f"{root}: no COCO annotations: neither annotations/instances_train2017.json, train.json or "
        f"train/_annotations.coco.json, nor a single .json ({found}); give train_file and val_file"
    )


def holds_coco(root: Path) -> bool:
    """Whether there are files below ``root`` that are taken for COCO annotations."""
    try:
        return bool(find_annotations(root, "train") or find_only_annotations(root))
    except DataError:
        return False


def find_images(root: Path, file: Path, split: Split | None) -> Path:
    """Look for the folder that holds the images of an annotation file; ``split`` is None if it is for all of them.

    Raises DataError, naming the first image, where no usual folder holds it.
    """
    try:
        found = FILE_NAME.finditer(file.read_bytes())  # far cheaper than parsing the whole file for it
    except OSError as error:
        raise DataError(f"{file}: cannot read this annotation file: {error.strerror}") from None
    texts = [match[1].decode(errors="replace") for match in islice(found, 100 if collects() else 1)] or ['""']
    try:
        names = [json.loads(text) for text in texts]
    except ValueError as error:
        raise DataError(f"{file}: broken JSON: file_name {texts[0]}: {error}; a backslash must be doubled") from None
    folders = [*_folders(root), *_folders(root / "images"), *_folders(file.parent), root, file.parent]

    def rank(folder: Path) -> int:
        words = {word for word, pattern in WORDS.items() if pattern.search(folder.name.lower())}
        if not words:
            return 2 if folder == file.parent else 3
        if split in words or (split == "val" and "test" in words):
            return 0 if folder.name.lower() in file.stem.lower() else 1
        return 4

    for name, folder in product(names, sorted(dict.fromkeys(folders), key=rank)):  # of many, some may be missing
        if os.path.isfile(folder / name):  # unlike Path's, it takes any name
            return folder
    raise DataError(
        f"{file}: cannot find its images: no {names[0] or 'file_name'} in any folder of {root}; "
        f"give {split or 'train'}_images"
    )


def _rank(file: Path, word: str) -> int | None:
    """How likely this file is the one of a split: the lower the better, None if it is not."""
    text = str(file).lower()
    if not WORDS[word].search(text):
        return None
    if file.stem == f"instances_{word}2017":
        return 0
    return 1 if "instances" in text or file.name == "_annotations.coco.json" else 2


def _json_files(root: Path) -> list[Path]:
    """Files that may be annotations: in ``root``, or in a folder of it."""
    return sorted(file for folder in (root, *_folders(root)) for file in folder.glob("*.json"))


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    with os.scandir(root) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir())


def _names(files: list[Path]) -> str:
    return ", ".join(str(file) for file in files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else "")
