"""The proposals of a split in one file: written little by little, whatever happens in between, read image by image.

The file is an SQLite database. It says what images and what settings it is of, so that no other file is taken for it.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.errors import DataError

FORMAT = 1  # of the file
SECONDS = 1.0  # between two savings

TABLES = (
    "CREATE TABLE about (method TEXT, settings TEXT, images TEXT, total INTEGER)",
    "CREATE TABLE proposals (row INTEGER PRIMARY KEY, boxes BLOB, checksum INTEGER, seconds REAL)",
)


class About(NamedTuple):
    """What a file of proposals is of."""

    method: str  # as given to the command that made it
    settings: str  # all that the boxes depend on, besides the images
    images: str  # their fingerprint
    total: int  # images


def cache_file(folder: str | Path, split: str) -> Path:
    """The file of a split in a folder of proposals."""
    return Path(folder, f"{split}.sqlite")


def about(annotations: DetectionAnnotations, method: str, **settings: Any) -> About:
    """What a file of the proposals of these images says of itself. Raises DataError for an image that is missing."""
    own = json.dumps({"format": FORMAT, **settings}, sort_keys=True)
    return About(method, own, fingerprint(annotations), len(annotations))


def fingerprint(annotations: DetectionAnnotations) -> str:
    """A number that changes with the names, the sizes and the order of the images, and not with their labels.

    Files are not read for it, but looked up: one that was replaced is noticed by its length. Raises DataError for one
    that is missing.
    """
    digest = hashlib.sha256(np.ascontiguousarray(annotations.sizes, dtype=np.int32).tobytes())
    for row, name in enumerate(annotations.files.tolist()):
        path = annotations.path(row)
        try:
            digest.update(json.dumps([name, path.stat().st_size]).encode())
        except OSError as error:
            raise DataError(f"{path}: cannot read this image: {error.strerror}") from None
    return digest.hexdigest()


class Proposals:
    """Boxes for each image of a split, the likeliest first. It may be handed to other processes.

    Raises DataError, which ends in the command to make the file with, if ``file`` is missing, unfinished, damaged,
    something else, or of other images than those of ``annotations``. The command begins with ``command``.
    """

    def __init__(self, file: Path, annotations: DetectionAnnotations, command: str) -> None:
        self.file, self.command = file, command
        if not file.exists():
            raise DataError(f"{file}: no such file of proposals; make it: {command} --method selective_search")
        with self._open() as connection:
            found = read_about(connection)
            done = connection.execute("SELECT count(*) FROM proposals").fetchone()[0] if found else 0
        if found is None:
            raise DataError(f"{file}: empty; go on: {command} --method selective_search")
        self.command = f"{command} --method {found.method}"
        if json.loads(found.settings)["format"] != FORMAT:
            raise DataError(f"{file}: written by another version of detseg; {self._anew}")
        if found.images != fingerprint(annotations):
            raise DataError(f"{file}: made for other images than those of {annotations.root}; {self._anew}")
        if done != found.total:
            raise DataError(f"{file}: unfinished, {done} of {found.total} images; go on: {self.command}")

    def __getitem__(self, row: int) -> NDArray[np.float32]:
        """Boxes (N, 4) of an image, xyxy in its pixels. Raises DataError if they are damaged."""
        with self._open() as connection:  # for each image anew: processes cannot share one, and it takes no time
            return read_boxes(connection, row)

    def seconds(self) -> float:
        """How long an image took on average."""
        with self._open() as connection:
            return float(connection.execute("SELECT avg(seconds) FROM proposals").fetchone()[0] or 0)

    @property
    def _anew(self) -> str:
        return f"remove it and make it anew: {self.command}"

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        address = f"{self.file.resolve().as_uri()}?mode=ro"
        try:
            with closing(sqlite3.connect(address, timeout=1, uri=True)) as connection:
                connection.execute("PRAGMA trusted_schema = OFF")
                yield connection
        except (sqlite3.Error, ValueError, TypeError, KeyError) as error:
            if "locked" in str(error):
                raise DataError(f"{self.file}: another process is writing it; wait for it") from None
            raise DataError(f"{self.file}: damaged, or no file of proposals ({error}); {self._anew}") from None


class Writer:
    """Adds proposals to a file, or goes on with one of the same images and settings.

    At any moment the file holds whole images: what was added in the last second may be missing after a crash, and
    nothing else. Raises DataError if ``file`` is of other images or settings, something else, or in use.
    """

    def __init__(self, file: Path, what: About) -> None:
        self.file = file
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self.connection = sqlite3.connect(file, timeout=1, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise DataError(f"{file}: cannot be written: {error}; give another --out") from None
        try:
            self._begin(what)
        except BaseException:
            self.connection.close()
            raise

    def missing(self) -> list[int]:
        """The rows of the images that have no proposals yet."""
        done = {row for (row,) in self.connection.execute("SELECT row FROM proposals")}
        return [row for row in range(self.total) if row not in done]

    def add(self, row: int, boxes: NDArray[np.float32], seconds: float) -> None:
        """Add the boxes (N, 4) of an image, which took so many seconds."""
        content = np.ascontiguousarray(boxes, dtype="<f4").tobytes()
        values = (row, content, zlib.crc32(content), seconds)
        self.connection.execute("INSERT INTO proposals VALUES (?, ?, ?, ?)", values)
        if time.monotonic() - self._saved > SECONDS:
            self._save()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        """Save what was added, also after an error."""
        self.connection.execute("COMMIT")
        self.connection.close()

    def _save(self) -> None:
        self.connection.execute("COMMIT")
        self.connection.execute("BEGIN EXCLUSIVE")
        self._saved = time.monotonic()

    def _begin(self, what: About) -> None:
        self.total, self._saved = what.total, time.monotonic()
        way_on = "remove it, or give another folder with --out"
        try:
            self.connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # until it is closed
            self.connection.execute("BEGIN EXCLUSIVE")
            found = read_about(self.connection)
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise DataError(f"{self.file}: another process is writing it; wait for it") from None
            raise DataError(f"{self.file}: cannot be written, or no file of proposals ({error}); {way_on}") from None
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise DataError(f"{self.file}: damaged, or no file of proposals ({error}); {way_on}") from None
        if found is None:
            for table in TABLES:
                self.connection.execute(table)
            self.connection.execute("INSERT INTO about VALUES (?, ?, ?, ?)", what)
            self._save()
        elif found.settings != what.settings:
            raise DataError(f"{self.file}: made by --method {found.method} with {found.settings}; {way_on}")
        elif found.images != what.images:
            raise DataError(f"{self.file}: made for other images, or some have changed since; {way_on}")


def read_about(connection: sqlite3.Connection) -> About | None:
    """What a file says of itself, None if it is empty. Raises ValueError or sqlite3.Error for something else."""
    if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        return None
    found = About(*connection.execute("SELECT * FROM about").fetchone())
    if not all(isinstance(value, str) for value in found[:3]) or not isinstance(found.total, int):
        raise ValueError("it does not say what it is of")
    return found


def read_boxes(connection: sqlite3.Connection, row: int) -> NDArray[np.float32]:
    """The boxes of an image. Raises ValueError if they are not those that were written."""
    found = connection.execute("SELECT boxes, checksum FROM proposals WHERE row = ?", (row,)).fetchone()
    if found is None or not isinstance(found[0], bytes) or zlib.crc32(found[0]) != found[1]:
        raise ValueError(f"the boxes of image {row}")
    boxes = np.frombuffer(found[0], dtype="<f4").reshape(-1, 4).astype(np.float32)
    if not np.isfinite(boxes).all():
        raise ValueError(f"the boxes of image {row}")
    return boxes
