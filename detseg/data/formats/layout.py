"""Files of a folder: images of label files, and splits by path."""

from __future__ import annotations

import json
import mmap
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from detseg.data.annotations.images import SUFFIXES
from detseg.errors import DataError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

# Whole words only, so that "trainval" is neither and "evaluation" is not "val"; digits may follow, as in val2017.
SPLIT_PATTERNS = {
    "train": re.compile(r"(?<![a-z])train(ing)?(?![a-z])"),
    "val": re.compile(r"(?<![a-z])val(id|idation)?(?![a-z])"),
    "test": re.compile(r"(?<![a-z])test(ing)?(?![a-z])"),
}


class Tree:
    """All files below a folder, by paths relative to it; hidden ones are left out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = sorted(_walk(str(root), ""))

    def ending(self, *suffixes: str) -> list[str]:
        """List the files with these suffixes, in any case."""
        return [file for file in self.files if file.lower().endswith(suffixes)]

    @cached_property
    def images(self) -> list[str]:
        """Image files, by suffix."""
        return self.ending(*SUFFIXES)

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        images = defaultdict(list)
        for file in self.images:
            images[PurePosixPath(file).stem].append(file)
        return dict(images)

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        images = defaultdict(list)
        for file in self.images:
            images[file.rpartition("/")[2]].append(file)
        return dict(images)

    def image_of(self, label: str, name: str | None = None) -> str | None:
        """Find the image of a label file by ``name``, else by its stem; None if there is none or several match equally.

        Of several, take the most similar path, and of these the one in a folder called images (beside masks, say).
        """
        images = (
            self._by_name.get(name.rpartition("/")[2], []) if name else self._by_stem.get(PurePosixPath(label).stem, [])
        )
        if len(images) < 2:
            return images[0] if images else None
        wanted = name if name and "/" in name else label
        likeness = sorted(((_alike(wanted, image), _called_images(image), image) for image in images), reverse=True)
        return likeness[0][2] if likeness[0][:2] != likeness[1][:2] else None


def split_of(file: str) -> str:
    """Return the split that a path names: "train", "val" (or valid, validation), "test", or "all" for none."""
    for part in reversed(file.lower().split("/")):
        words = [word for word, pattern in SPLIT_PATTERNS.items() if pattern.search(part)]
        if len(words) == 1:
            return words[0]
    return "all"


def by_split(files: list[str]) -> dict[str, list[str]]:
    """Group files by the split in their path; all are one part unless some are named train and some val or test."""
    parts: dict[str, list[str]] = defaultdict(list)
    for file in files:
        parts[split_of(file)].append(file)
    if "train" not in parts or len(parts) == 1 or "all" in parts:
        return {"all": files}
    return dict(parts)


def is_path_traversal(name: str) -> bool:
    """Tell if a path in a data file may lead out of the folder that it is relative to."""
    path = name.replace("\\", "/")  # of many, for which PurePosixPath takes long
    return path.startswith("/") or name[1:2] == ":" or (".." in path and ".." in path.split("/"))


def resolve_paths(source: Path, root: Path, names: list[str]) -> list[str]:
    """Find the images that the file ``source`` names below ``root``, as ``lookup_paths`` does.

    Raises DataError for a name that leads out of ``root`` and is not found.
    """
    paths = lookup_paths(source, root, names)
    for path in paths:
        if is_path_traversal(path):
            raise DataError(path_traversal_message(source, root, path))
    return paths


def path_traversal_message(source: Path, root: Path, name: str) -> str:
    """Describe the error of a name that leads out of ``root`` and is not found."""
    return (
        f"{source}: file_name {name!r} leads out of the folder of the images, {root}, and there is no image of "
        "this name in it; put the image there, or correct the name"
    )


def lookup_paths(source: Path, root: Path, names: list[str]) -> list[str]:
    """Find images at the paths that the file ``source`` gives, else by name anywhere below ``root``.

    A name that is not found stays as it is.
    """
    there: set[str] = set()
    for folder in {name.rpartition("/")[0] for name in names}:
        if not is_path_traversal(folder):
            there.update(map(os.path.join(folder, "").__add__, _listed(root / folder)))
    if there.issuperset(names):
        return names
    tree = Tree(root)
    label = source.relative_to(root).as_posix() if source.is_relative_to(root) else source.name
    return [name if name in there else tree.image_of(label, name.replace("\\", "/")) or name for name in names]


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (OSError, ValueError):
        return []


def read_text(file: Path) -> str:
    """Read the text of a label file. Raises DataError."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{file}: cannot read this file: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{file}: not a text in UTF-8: {error}") from None


def read_json(file: Path) -> Any:
    """Read a JSON file. Raises DataError."""
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file}: cannot read this annotation file: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: broken JSON: {error}") from None


def parse_xml(file: Path) -> Element:
    """Parse an XML file. Raises DataError."""
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    try:
        element: Element = fromstring(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file}: cannot read this annotation file: {error.strerror}") from None
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:  # also unknown encodings
        raise DataError(f"{file}: broken XML: {error}") from None
    return element


def read_start(file: Path, size: int = 4096) -> bytes:
    """Read the first bytes of a file; empty if it cannot be read."""
    try:
        with file.open("rb") as stream:
            return stream.read(size)
    except OSError:
        return b""


def has_keys(file: Path, *keys: str) -> bool:
    """Tell if the first or the last MiB of a JSON file has all of these keys."""
    try:
        with file.open("rb") as stream:
            start = stream.read(1 << 20)
            stream.seek(max(file.stat().st_size - (1 << 20), 0))
            text = start + stream.read()
    except OSError:
        return False
    return all(f'"{key}"'.encode() in text for key in keys)


def ends_with(file: Path, mark: bytes) -> bool:
    """Tell if a text file ends with a mark, apart from spaces."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(file.stat().st_size - 4096, 0))
            return stream.read().rstrip().endswith(mark)
    except OSError:
        return False


def contains_keys(file: Path, *keys: str) -> bool:
    """Tell if a JSON file of any size has all of these keys."""
    if has_keys(file, *keys):
        return True
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return all(content.find(f'"{key}"'.encode()) >= 0 for key in keys)
    except (OSError, ValueError):  # an empty file cannot be mapped
        return False


def _walk(folder: str, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if not entry.is_symlink() or not os.path.realpath(folder).startswith(os.path.realpath(entry.path)):
                    yield from _walk(entry.path, f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name


def _alike(one: str, other: str) -> int:
    """Count the folders that two paths have in common, from both ends."""
    folders = one.split("/")[:-1], other.split("/")[:-1]
    count = 0
    for pair in (zip(*folders, strict=False), zip(*map(reversed, folders), strict=False)):
        for a, b in pair:
            if a != b:
                break
            count += 1
    return count


def _called_images(file: str) -> bool:
    """Tell if a path has a folder called images, JPEGImages or the like."""
    return any(part.startswith(("images", "jpegimages", "img")) for part in file.lower().split("/")[:-1])
