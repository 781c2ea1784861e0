"""Where the annotation files and the images of COCO's format lie, in whatever layout of folders."""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Mapping
from itertools import islice, product
from pathlib import Path
from typing import NamedTuple

from detseg.data.annotations.issues import collects
from detseg.data.formats.layout import SPLIT_PATTERNS, Tree, ends, has_keys_anywhere, holds, is_path_traversal
from detseg.data.splits import Split
from detseg.errors import DataError

MANY = 50  # files that could be annotations are looked into; more are of one image each

FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')


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
    words = ("train",) if split == "train" else ("val", "test")
    return next((file for word in words if (file := find_split(root, word))), None)


def find_split(root: Path, word: str) -> Path | None:
    """Look for the annotation file of the split "train", "val" or "test"; DataError where several would do."""
    ranked = [(rank, file) for file in _json_files(root) if (rank := _rank(file.relative_to(root), word)) is not None]
    best = _most_likely([file for rank, file in ranked if rank == min(ranked)[0]])
    if len(best) > 1:
        name = "val" if word == "test" else word
        raise DataError(f"{root}: several files could be the {word} split: {_names(best)}; give {name}_file")
    return best[0] if best else None


def find_only_annotations(root: Path) -> Path:
    """Look for the one annotation file of a data set that is not split. Raises DataError if it is not one."""
    files = [f for f in _json_files(root) if all(_rank(f.relative_to(root), word) is None for word in SPLIT_PATTERNS)]
    files = _most_likely(files)
    if len(files) == 1:
        return files[0]
    found = f"found {_names(files)}" if files else "found none"
    raise DataError(
        f"{root}: no COCO annotations: neither annotations/instances_train2017.json, train.json or "
        f"train/_annotations.coco.json, nor a single .json ({found}); give train_file and val_file"
    )


def is_coco(file: Path) -> bool:
    """Whether a file has the three parts of COCO annotations, and is not one of LVIS."""
    return has_keys_anywhere(file, "images", "annotations", "categories") and not is_lvis(file)


def is_cut(file: Path) -> bool:
    """Whether a file begins as COCO annotations may, and ends before its JSON does."""
    return holds(file, "images") and not ends(file, b"}") and not ends(file, b"]")


def is_lvis(file: Path) -> bool:
    """Whether a file says which categories were looked for in its images, as those of LVIS do."""
    return holds(file, "neg_category_ids", "not_exhaustive_category_ids")


def is_coco_folder(root: Path) -> bool:
    """Whether there are files below ``root`` that are taken for COCO annotations."""
    try:
        return bool(find_annotations(root, "train") or find_only_annotations(root))
    except DataError:
        return False


def find_images(root: Path, file: Path, split: str | None) -> Path:
    """Look for the folder that holds the images of an annotation file; ``split`` is None if it is for all of them.

    Raises DataError, naming the first image, where no usual folder holds it.
    """
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = islice(FILE_NAME.finditer(content), 100 if collects() else 1)  # far cheaper than parsing the file
            texts = [match[1].decode(errors="replace") for match in found]
            del found  # which keeps the file open
    except OSError as error:
        raise DataError(f"{file}: cannot read this annotation file: {error.strerror}") from None
    except ValueError:  # an empty file cannot be mapped
        texts = []
    try:
        names = [json.loads(text) for text in texts] or [""]
    except ValueError as error:
        raise DataError(f"{file}: broken JSON: file_name {texts[0]}: {error}; a backslash must be doubled") from None
    folders = [*_folders(root), *_folders(root / "images"), *_folders(file.parent), root, file.parent]

    def rank(folder: Path) -> int:
        words = {word for word, pattern in SPLIT_PATTERNS.items() if pattern.search(folder.name.lower())}
        if not words:
            return 2 if folder == file.parent else 3
        if split in words or (split == "val" and "test" in words):
            return 0 if folder.name.lower() in file.stem.lower() else 1
        return 4

    for name, folder in product(names, sorted(dict.fromkeys(folders), key=rank)):  # of many, some may be missing
        if not is_path_traversal(name) and os.path.isfile(folder / name):  # unlike Path's, it takes any name
            return folder
    label, tree = file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name, Tree(root)
    for name in filter(None, names):
        if image := tree.image_of(label, name.replace("\\", "/")):
            return root / image.removesuffix(name) if image.endswith(f"/{name}") else root
    raise DataError(
        f"{file}: cannot find its images: no {names[0] or 'file_name'} in any folder of {root}; "
        f"give {split or 'train'}_images"
    )


def _most_likely(files: list[Path]) -> list[Path]:
    """Of several files those with the content of COCO's; none if they are so many that each is of one image."""
    if len(files) < 2:
        return files
    return [file for file in files if is_coco(file)] if len(files) <= MANY else []


def _rank(file: Path, word: str) -> int | None:
    """How likely this file is the one of a split: the lower the better, None if it is not."""
    text = str(file).lower()
    if not SPLIT_PATTERNS[word].search(text):
        return None
    if file.stem == f"instances_{word}2017":
        return 0
    return 1 if "instances" in text or file.name == "_annotations.coco.json" else 2


def _json_files(root: Path) -> list[Path]:
    """Files that may be annotations: in ``root``, or in a folder of it; deeper where there are none."""
    near = sorted(file for folder in (root, *_folders(root)) for file in folder.glob("*.json"))
    return near or [root / file for file in Tree(root).ending(".json")] if root.is_dir() else []


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    with os.scandir(root) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir())


def _names(files: list[Path]) -> str:
    return ", ".join(str(file) for file in files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else "")
