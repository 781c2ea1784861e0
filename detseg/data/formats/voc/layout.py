"""Folders and lists of Pascal VOC data sets."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from detseg.data.annotations.images import SUFFIXES
from detseg.data.formats.base import WHOLE, AmbiguousFormatError
from detseg.data.formats.layout import SPLIT_PATTERNS, Tree
from detseg.errors import DataError

FLAG = re.compile(r"\s+(-1|0|1)$")  # after an image in the list of a class: shown or not, 0 for difficult objects


def find_voc(root: Path, labels: str = "Annotations") -> Path:
    """Find the folder with a folder of label files: ``root``, or one such as VOCdevkit/VOC2007 below it.

    Raises DataError for none, and AmbiguousFormatError for several.
    """
    below = [folder for parent in (root, root / "VOCdevkit") for folder in sorted(parent.glob("*/"))]
    suffix = ".xml" if labels == "Annotations" else ".png"
    labelled = ((folder, subfolder(folder, labels.lower())) for folder in (root, *below))
    folders = [folder for folder, files in labelled if files and Tree(files).ending(suffix)]
    if root in folders or len(folders) == 1:
        return folders[0]
    if folders:
        several = ", ".join(map(str, folders))
        raise AmbiguousFormatError(f"{root}: more than one VOC data set: {several}; give one of them as root")
    raise DataError(f"{root}: no VOC data set: it has no folder {labels} with one {suffix} for each image")


def find_ids(root: Path, split: str | None, kind: str = "Main") -> list[str]:
    """List the images of ImageSets/<kind>/<split>.txt, or of all annotations if ``split`` is None."""
    if split is None:
        return [os.path.splitext(file)[0] for file in Tree(require_folder(root, "annotations")).ending(".xml")]
    images = subfolder(root, "jpegimages", "images")
    known = {os.path.splitext(name)[0] for name in Tree(images).images} if images else ()
    return read_list(root / "ImageSets" / kind / f"{split}.txt", known)


def label_files(folder: Tree, names: Sequence[str]) -> list[str]:
    """Return the annotation file of each name of a list: a path without a suffix, or one of an image anywhere."""
    files = set(folder.ending(".xml"))
    by_stem: dict[str, list[str]] = defaultdict(list)
    for file in files:
        by_stem[Path(file).stem].append(file)
    labels = []
    for name in names:
        name = os.path.splitext(name)[0] if name.lower().endswith(SUFFIXES) and f"{name}.xml" not in files else name
        file, stem = f"{name}.xml", name.rpartition("/")[2]
        labels.append(file if file in files or len(by_stem[stem]) != 1 else by_stem[stem][0])
    return list(dict.fromkeys(labels))


def read_list(file: Path, known: Container[str] = ()) -> list[str]:
    """Read names, one a line, without the -1, 0 or 1 that follows them in the lists of a class.

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
    """Return the names of the lists for training and validation; None if ImageSets/<kind> has no such pair."""
    folder = root / "ImageSets" / kind
    lists = [file.removesuffix(".txt") for file in Tree(folder).files] if folder.is_dir() else []
    named = {
        word: next((name for name in lists if pattern.fullmatch(name)), "") for word, pattern in SPLIT_PATTERNS.items()
    }
    named |= {name: name for name in lists}  # the usual names come first
    pairs = (("train", "val"), ("trainval", "test"), ("train", "test"))
    return next(((named[a], named[b]) for a, b in pairs if named.get(a) and named.get(b)), None)


def choose_lists(root: Path, kind: str, names: Mapping[str, str]) -> dict[str, str | None]:
    """Map splits to lists: those of ``names``, else the usual ones; all images are one split without validation."""
    usual = find_splits(root, kind) or (None, None)
    train, val = names.get("train") or usual[0], names.get("val") or usual[1]
    if val is None:
        return {WHOLE: train}
    splits: dict[str, str | None] = {"val": val} if train is None else {"train": train, "val": val}
    if val != "test" and (root / "ImageSets" / kind / "test.txt").is_file():
        splits["test"] = "test"
    return splits


def require_folder(root: Path, *names: str) -> Path:
    """Return the folder of one of these names, in any case. Raises DataError if there is none."""
    folder = subfolder(root, *names)
    if folder is None:
        raise DataError(f"{root}: it has no folder {' or '.join(names)}")
    return folder


def subfolder(root: Path, *names: str) -> Path | None:
    """Return the folder of one of these names, in any case; None if there is none."""
    return next((folder for folder in sorted(root.glob("*/")) if folder.name.lower() in names), None)
