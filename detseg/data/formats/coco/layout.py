"""Annotation files and images of COCO data sets in the usual layouts of folders."""

from __future__ import annotations

import json
import mmap
import os
import re
from itertools import islice, product
from pathlib import Path

from detseg.data.annotations.issues import FAIL_FAST, IssueCollector
from detseg.data.formats.base import AmbiguousFormatError
from detseg.data.formats.layout import (
    SPLIT_PATTERNS,
    Tree,
    contains_keys,
    ends_with,
    has_keys,
    in_label_place,
    is_hidden,
    read_head,
)
from detseg.data.splits import Split
from detseg.errors import DataError, explain_content
from detseg.folders import is_path_traversal

MANY = 50  # .json files to search for annotations; more are of one image each

FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')


def find_annotations(root: Path, split: Split) -> Path | None:
    """Find the annotation file of a split below ``root``; None if there is none.

    The test split serves as ``val`` if no file is called val. Raises AmbiguousFormatError for several files.
    """
    words = ("train",) if split == "train" else ("val", "test")
    return next((file for word in words if (file := find_split(root, word))), None)


def find_split(root: Path, word: str) -> Path | None:
    """Find the annotation file of the split "train", "val" or "test". Raises AmbiguousFormatError for several.

    A file that is broken, or none of COCO's, counts as well if it is in the place of one.
    """
    files = _json_files(root)
    ranked = [(rank, file) for file in files if (rank := _rank(file.relative_to(root), word)) is not None]
    if len(ranked) > 1:
        labels = [file for file in files if len(files) <= MANY and is_coco(file)]
        places = in_places([file for _, file in ranked], labels, root)
        ranked = [(rank, file) for rank, file in ranked if file in labels or file in places or describe_broken(file)]
    best = [file for rank, file in ranked if rank == min(ranked)[0]]
    if len(best) > 1:
        several = f"several files could be the {word} split: {_names(best)}"
        split = "val" if word == "test" else word
        raise AmbiguousFormatError(f"{root}: {several}; choose with `split.{split}='FILE'`")
    return best[0] if best else None


def in_places(files: list[Path], labels: list[Path], root: Path) -> set[Path]:
    """Select the files below ``root`` that are in the place of one of ``labels``."""
    paths = {file.relative_to(root).as_posix(): file for file in files}
    return {paths[name] for name in in_label_place(paths, [file.relative_to(root).as_posix() for file in labels])}


def find_only_annotations(root: Path) -> Path:
    """Find the only annotation file of a data set that is not split. Raises DataError for none or several."""
    files = [f for f in _json_files(root) if all(_rank(f.relative_to(root), word) is None for word in SPLIT_PATTERNS)]
    files = _most_likely(files)
    if len(files) == 1:
        return files[0]
    files_text = f"found {_names(files)}" if files else "found none"
    raise DataError(
        f"{root}: no COCO annotations: neither annotations/instances_train2017.json, train.json or "
        f"train/_annotations.coco.json, nor a single .json ({files_text}); give "
        "`split.train='FILE'` and `split.val='FILE'`"
    )


def is_coco(file: Path) -> bool:
    """Tell if a file has the three sections of COCO annotations, and is not one of LVIS."""
    return contains_keys(file, "images", "annotations", "categories") and not is_lvis(file)


def describe_broken(file: Path) -> str | None:
    """Describe why a file cannot hold annotations, by its first and last bytes; None if it may."""
    head = read_head(file).lstrip()
    if reason := explain_content(file):
        return f"is {reason}"
    if not head.startswith(("{", "[")):
        return f"broken JSON: it begins with {head[:20]!r}"
    return None if ends_with(file, b"}" if head[0] == "{" else b"]") else "broken JSON: it is cut off: copy it again"


def is_lvis(file: Path) -> bool:
    """Tell if a file lists the categories that were searched in its images, as those of LVIS do."""
    return has_keys(file, "neg_category_ids", "not_exhaustive_category_ids")


def find_images(root: Path, file: Path, split: str | None, issues: IssueCollector = FAIL_FAST) -> Path:
    """Find the folder with the images of an annotation file; ``split`` is None if the data set is not split.

    Raises DataError, naming the first image, if no usual folder holds it.
    """
    if file.is_file() and (reason := describe_broken(file)):
        raise DataError(f"{file}: {reason}")
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            matches = islice(FILE_NAME.finditer(content), 100 if issues.collects else 1)  # cheaper than parsing
            texts = [match[1].decode(errors="replace") for match in matches]
            del matches  # which keeps the file open
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

    for name, folder in product(names, sorted(dict.fromkeys(folders), key=rank)):  # some of many may be missing
        if not is_path_traversal(name) and os.path.isfile(folder / name):  # unlike Path's, it takes any name
            return folder
    label, tree = file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name, Tree(root)
    for name in filter(None, names):
        if image := tree.image_of(label, name.replace("\\", "/")):
            return root / image.removesuffix(name) if image.endswith(f"/{name}") else root
    raise DataError(
        f"{file}: cannot find its images: no {names[0] or 'file_name'} in any folder of {root}; "
        f"give `format='CocoFormat'` with `format.images.{split or 'train'}='FOLDER'`"
    )


def _most_likely(files: list[Path]) -> list[Path]:
    """Keep the COCO files of several; none if there are so many that each is of one image."""
    if len(files) < 2:
        return files
    return [file for file in files if is_coco(file)] if len(files) <= MANY else []


def _rank(file: Path, word: str) -> int | None:
    """Rank a file as the annotations of a split: lower is better, None if its path does not name the split."""
    text = str(file).lower()
    if not SPLIT_PATTERNS[word].search(text):
        return None
    if file.stem == f"instances_{word}2017":
        return 0
    return 1 if "instances" in text or file.name == "_annotations.coco.json" else 2


def _json_files(root: Path) -> list[Path]:
    """List .json files in ``root`` or one of its folders; deeper ones if there are none."""
    near = sorted(
        file
        for folder in (root, *_folders(root))
        for file in folder.iterdir()
        if file.suffix.lower() == ".json" and file.is_file() and not is_hidden(file.name)
    )
    return near or [root / file for file in Tree(root).ending(".json")] if root.is_dir() else []


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    with os.scandir(root) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not is_hidden(entry.name))


def _names(files: list[Path]) -> str:
    return ", ".join(str(file) for file in files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else "")
