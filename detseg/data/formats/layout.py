"""Files of a folder: images of label files, and splits by path."""

from __future__ import annotations

import codecs
import json
import math
import mmap
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from detseg.data.annotations.images import SUFFIXES
from detseg.data.annotations.issues import Issue
from detseg.errors import DataError, explain_content

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

# Whole words only, so that "trainval" is neither; digits may follow, as in val2017. COCO's test-dev is a test split.
SPLIT_PATTERNS = {
    "train": re.compile(r"(?<![a-z])train(ing)?(set)?(?![a-z])"),
    "val": re.compile(r"(?<![a-z])(val(id|idation)?|eval(uation)?|(?<!test[-_])dev)(set)?(?![a-z])"),
    "test": re.compile(r"(?<![a-z])test(ing)?(set)?(?![a-z])"),
}


# Beginnings of the names of folders whose images show labels, or what a program drew.
NOT_PHOTOGRAPHS = (
    *("mask", "trimap", "seg", "label", "annot", "gt", "panoptic", "instance"),
    *("depth", "visual", "pred", "result"),
)

WHOLE = "all"  # the split of a data set that is not split
TEXTS = (".txt", ".xml", ".json", ".csv", ".yaml", ".yml", ".md", ".html")


class Tree:
    """All files below a folder, by paths relative to it; hidden ones, and what macOS adds to archives, are left out."""

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
        return _grouped(self.images, lambda name: os.path.splitext(name)[0])

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        return _grouped(self.images, str)

    @cached_property
    def _by_loose_stem(self) -> dict[str, list[str]]:
        return _grouped(self.images, lambda name: _loose(os.path.splitext(name)[0]))

    def images_of(self, label: str, name: str | None = None) -> list[str]:
        """Find the images of a label file by ``name``, else by its stem; several if they match equally.

        Of several, take those that are not in a folder called masks or the like, of these the most similar paths, and
        of these the ones in a folder called images.
        Other spellings of a name count if none is the same: percent-encoded, or with accents or capitals otherwise.
        """
        file = (name or label).rpartition("/")[2]
        stem = os.path.splitext(file)[0]
        loose = self._by_loose_stem.get(_loose(stem), [])
        if name:
            images = self._by_name.get(file) or [image for image in loose if _loose(image).endswith(_loose(file))]
        else:  # a label may also be called a.jpg.txt
            images = self._by_stem.get(stem) or self._by_name.get(stem) or loose
        if len(images) < 2:
            return images
        wanted = name if name and "/" in name else label
        likeness = [(not shows_labels(image), _alike(wanted, image), _called_images(image)) for image in images]
        most = max(likeness)
        return [image for image, alike in zip(images, likeness, strict=True) if alike == most]

    def image_of(self, label: str, name: str | None = None) -> str | None:
        """Find the image of a label file as ``images_of`` does; None if there is none or several match equally."""
        images = self.images_of(label, name)
        return images[0] if len(images) == 1 else None

    def describe_images(self, label: Path, images: Sequence[str]) -> Issue:
        """Return an issue for a label file that fits no image, or several of the ``images``."""
        if images:
            message = (
                f"{label}: fits {' and '.join(images)} equally well; rename one of them, and give it its own labels"
            )
            return Issue("image-ambiguous", str(label), message)
        other = next((file for file in self.others if os.path.splitext(file.rpartition("/")[2])[0] == label.stem), None)
        hint = f"; {other} has a suffix that is not read: convert it to .png" if other else ""
        return Issue("label-stray", str(label), f"{label}: there is no image of this name{hint}")

    @cached_property
    def others(self) -> list[str]:
        """Files that are neither images nor texts."""
        return [file for file in self.files if not file.lower().endswith((*SUFFIXES, *TEXTS))]


def split_of(file: str) -> str:
    """Return the split that a path names: "train", "val" (or valid, eval, dev ...), "test", or "all"."""
    for part in reversed(file.lower().split("/")):
        words = [word for word, pattern in SPLIT_PATTERNS.items() if pattern.search(part)]
        if len(words) == 1:
            return words[0]
    return WHOLE


def by_split(files: list[str], per_image: bool = True) -> dict[str, list[str]]:
    """Group label files by the split that their folders name; files in other folders then belong to none.

    Where no folder names one, their names count; if they are of one image each, only if all of them name a split. All
    files are one part unless there are two splits.
    """
    parts = _parts(files, lambda file: file.rpartition("/")[0])
    if set(parts) == {WHOLE}:
        parts = _parts(files, str)
        if per_image and WHOLE in parts:
            return {WHOLE: files}
    named = {split: parts[split] for split in SPLIT_PATTERNS if split in parts}
    return named if len(named) > 1 else {WHOLE: files}


def _parts(files: list[str], place: Callable[[str], str]) -> dict[str, list[str]]:
    parts = defaultdict(list)
    for file in files:
        parts[split_of(place(file))].append(file)
    return dict(parts)


def in_label_place(files: Iterable[str], labels: Iterable[str], tree: Tree | None = None) -> set[str]:
    """Select the ``files`` that are in the place of labels, whatever is in them.

    These are like one of ``labels`` but for the split, as train/a.json like val/a.json; with a ``tree``, as labels are
    of one image each, also those of an image in the same folder, or in a folder of labels.
    """
    places, folders = set(map(_without_split, labels)), {_without_split(_parent(label)) for label in labels}
    chosen = set()
    for file in files:
        if split_of(file) != WHOLE and _without_split(file) in places:
            chosen.add(file)
        elif tree and (images := tree.images_of(file)):
            beside = any(_parent(image) == _parent(file) for image in images)
            if beside or _without_split(_parent(file)) in folders:
                chosen.add(file)
    return chosen


def _parent(file: str) -> str:
    return file.rpartition("/")[0]


def _without_split(file: str) -> str:
    text = file.lower()
    for pattern in SPLIT_PATTERNS.values():
        text = re.sub(pattern.pattern + r"\d*", "*", text)
    return text


def unused_split(tree: Tree, files: Iterable[str]) -> list[Issue]:
    """Return an issue if some files are in folders of one split, and the others in folders of no split."""
    parts = _parts([*files], _parent)
    if len(parts) != 2 or WHOLE not in parts:
        return []
    (split,) = parts.keys() - {WHOLE}
    message = (
        f"{tree.root}: the data set is not split: {len(parts[split])} files are in folders of the {split} split, but "
        f"{len(parts[WHOLE])}, such as {parts[WHOLE][0]}, are not; rename their folders to train, val or test"
    )
    return [Issue("split-conflict", str(tree.root), message)]


def unused_label(tree: Tree, file: str, reason: str = "no split uses it") -> Issue:
    """Return an issue for a label file that is not read."""
    return Issue("file-unused", str(tree.root / file), f"{tree.root / file}: {reason}")


def read_text(file: Path) -> str:
    """Read the text of a label file, in UTF-8, or in UTF-16 with a byte order mark. Raises DataError."""
    try:
        content = file.read_bytes()
        if content.strip() and (reason := explain_content(file)):
            raise DataError(f"{file}: {reason}")
        return content.decode(_encoding(content)).replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise DataError(f"{file}: cannot read this file: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{file}: not a text in UTF-8: {error}") from None


def read_head(file: Path) -> str:
    """Read the beginning of a text, as ``read_text`` does; empty if it cannot be read."""
    head = read_start(file)
    return head.decode(_encoding(head), errors="replace")


def _encoding(content: bytes) -> str:
    return "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def read_json(file: Path) -> Any:
    """Read a JSON file. Raises DataError."""
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file}: cannot read this annotation file: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: {explain_content(file) or f'broken JSON: {error}'}") from None


def parse_xml(file: Path, root: str) -> Element:
    """Parse an XML file whose root element is called ``root``. Raises DataError."""
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    try:
        element: Element = fromstring(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file}: cannot read this annotation file: {error.strerror}") from None
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:  # also unknown encodings
        raise DataError(f"{file}: {explain_content(file) or f'broken XML: {error}'}") from None
    if element.tag != root:
        problem = explain_content(file) or f"its root element is <{element.tag}> instead of <{root}>"
        raise DataError(f"{file}: {problem}")
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
            end = stream.read().rstrip()
            return not end or end.endswith(mark)  # spaces may follow
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


def is_hidden(name: str) -> bool:
    """Tell if a file or folder is none of a data set: hidden, or what macOS adds to archives."""
    return name.startswith(".") or name == "__MACOSX"


def _walk(folder: str, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                continue
            if entry.is_dir():
                if not entry.is_symlink() or not os.path.realpath(folder).startswith(os.path.realpath(entry.path)):
                    yield from _walk(entry.path, f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name


def read_flag(value: Any) -> bool | None:
    """Read a flag as programs write it: 0 or 1, false, no, Unspecified or nothing; None for anything else."""
    text = str("" if value is None else value).strip().lower()
    if text in ("true", "yes", "y", "t"):
        return True
    if text in ("", "false", "no", "n", "f", "none", "null", "unspecified"):
        return False
    try:
        number = float(text)
    except ValueError:
        return None
    return number > 0 if math.isfinite(number) else None  # Open Images has -1 for unknown


def _grouped(files: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups = defaultdict(list)
    for file in files:
        groups[key(file.rpartition("/")[2])].append(file)
    return dict(groups)


def _loose(name: str) -> str:
    """Spell a name in one of the ways that programs write it: decoded, composed, in small letters."""
    return unicodedata.normalize("NFC", unquote(name)).casefold()


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


def shows_labels(image: str) -> bool:
    """Tell if a path has a folder whose name is that of labels, or of what a program drew."""
    return any(folder.startswith(NOT_PHOTOGRAPHS) for folder in image.lower().split("/")[:-1])


def _called_images(file: str) -> bool:
    """Tell if a path has a folder called images, JPEGImages or the like."""
    return any(part.startswith(("images", "jpegimages", "img")) for part in file.lower().split("/")[:-1])
