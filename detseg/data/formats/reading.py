"""Shared parts of the readers of annotation tools' files."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TypeVar

from detseg.data.annotations.builder import Box, Builder
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.images import Orientation
from detseg.data.annotations.issues import AnnotationError, IssueCollector
from detseg.data.formats.layout import Tree, has_keys, read_head, read_start
from detseg.errors import DataError

T = TypeVar("T")
TRIES = 20  # files of a folder to look into
MANY = 50  # JSON files; more are of one image each
ROTATED = "rotated boxes become the boxes around them"


def json_files(tree: Tree, start: str, *keys: str) -> list[str]:
    """List the JSON files with a first character and some keys.

    Of all JSON files, those that may label many images are looked into: few, none with the stem of an image.
    """
    files = [file for file in tree.ending(".json") if tree.image_of(file) is None]
    if len(files) > MANY:
        return []
    return [
        file
        for file in files
        if read_head(tree.root / file).lstrip().startswith(start) and has_keys(tree.root / file, *keys)
    ]


def label_folders(tree: Tree, line: re.Pattern[bytes], name: str | None = None) -> list[str]:
    """List the .txt files of each folder of which a file, of the first that are not empty, begins with such a line.

    ``name`` is that of the folders, any by default.
    """
    folders: dict[str, list[str]] = defaultdict(list)
    for file in tree.ending(".txt"):
        folder = file.rpartition("/")[0]
        if name in (None, folder.rpartition("/")[2]):
            folders[folder].append(file)

    def fits(files: list[str]) -> bool:
        starts = (read_start(tree.root / file).strip().partition(b"\n")[0] for file in files)
        return any(line.fullmatch(start) for start in islice(filter(None, starts), TRIES))

    return [file for files in folders.values() if fits(files) for file in files]


class TableReader:
    """Reads label files, paths relative to the root of ``tree``, into one table of their images and objects.

    Annotations that are left out or simplified are counted by their description.
    """

    def __init__(self, tree: Tree, issues: IssueCollector, orientation: Orientation) -> None:
        self.tree, self.issues = tree, issues
        self.builder = Builder(tree.root, tree.root, issues, orientation)
        self.ignored: list[tuple[int, Box]] = []
        self.left_out: dict[tuple[str, str], list[str]] = defaultdict(list)  # files by kind of issue and description

    def parse(self, name: str, parse: Callable[[Path], T]) -> T | None:
        """Parse a file; None for a broken one, which is reported."""
        file = self.tree.root / name
        try:
            return parse(file)
        except DataError as error:
            self.issues.report("label-broken", file, str(error))
            return None

    def image(
        self, name: str, title: str | None = None, size: tuple[int, int] | None = None, near: str | None = None
    ) -> int | None:
        """Add the image that a file calls ``title``, or that has its stem; None for a missing one, which is reported.

        ``size`` is the height and width that the file states, if it does. Of several images, that with the path most
        like ``near`` is taken, by default the path of the file.
        """
        file = self.tree.root / name
        images = [] if title == "" else self.tree.images_of(near or name, title)
        if len(images) == 1:
            return self.builder.image(images[0], size)
        if images:
            issue = self.tree.describe_images(file, images)
            self.issues.report(issue.kind, issue.file, issue.message)
        else:
            called = f"called {PurePosixPath(name).stem}" if title is None else repr(title)
            self.issues.report("image-missing", file, f"{file}: no image {called} anywhere below {self.tree.root}")
        return None

    def ignore(self, image: int, box: Box) -> None:
        """Add a region in which no detection counts, of whatever class."""
        self.ignored.append((image, box))

    @contextmanager
    def located(self, name: str, place: str, image: int | None = None) -> Iterator[None]:
        """Report an AnnotationError of the ``place`` in a file."""
        try:
            yield
        except AnnotationError as error:
            file = self.tree.root / name
            path = None if image is None else self.tree.root / self.builder.files[image]
            self.issues.report(error.kind, file, f"{file}: {place} {error}", place, image=path)

    def leave_out(self, name: str, description: str, count: int = 1, kind: str = "shape-unsupported") -> None:
        """Count annotations of a file; the ``description`` follows their number."""
        self.left_out[kind, description] += [name] * count

    def table(self, category_ids: Mapping[str, int] | None = None) -> DetectionAnnotations:
        """Report the counts, and build the table, in which an ignored region is a crowd of every class."""
        root = self.tree.root
        for (kind, description), names in self.left_out.items():
            if names:
                self.issues.report(kind, root, f"{root}: {len(names)} {description}, the first in {names[0]}")
        classes = sorted(set(self.builder.names)) if category_ids is None else category_ids
        for image, box in self.ignored:
            for name in classes:
                self.builder.add(image, name, box, crowd=True)
        return self.builder.annotations(category_ids)
