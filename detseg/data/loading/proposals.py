"""The proposals of a split in one file, written image by image and safe against crashes.

The file is an SQLite database. Its header describes the images and the settings, so that files are not confused.
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
SECONDS = 1.0  # between two commits

TABLES = (
    "CREATE TABLE about (method TEXT, settings TEXT, images TEXT, total INTEGER)",
    "CREATE TABLE proposals (row INTEGER PRIMARY KEY, boxes BLOB, checksum INTEGER, seconds REAL)",
)


class Header(NamedTuple):
    """The header of a file of proposals."""

    method: str  # as given to the command that made it
    settings: str  # all that the boxes depend on, besides the images
    images: str  # their fingerprint
    total: int  # images


def cache_file(folder: str | Path, split: str) -> Path:
    """Name the file of a split in a folder of proposals."""
    return Path(folder, f"{split}.sqlite")


def make_header(annotations: DetectionAnnotations, method: str, **settings: Any) -> Header:
    """Return the header for the proposals of these images. Raises DataError for a missing image."""
    text = json.dumps({"format": FORMAT, **settings}, sort_keys=True)
    return Header(method, text, fingerprint(annotations), len(annotations))


def fingerprint(annotations: DetectionAnnotations) -> str:
    """Hash the names, the sizes and the order of the images, and not their labels.

    Files are not read, but a replaced file is noticed by its length. Raises DataError for a missing image.
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
    """Boxes for each image of a split, best first. Can be pickled for other processes.

    Raises DataError, which ends with the command that computes the file, if ``file`` is missing, unfinished, damaged,
    something else, or of other images than those of ``annotations``. The command begins with ``command``.
    """

    def __init__(self, file: Path, annotations: DetectionAnnotations, command: str) -> None:
        self.file, self.command = file, command
        if not file.exists():
            raise DataError(f"{file}: no such file of proposals; compute it: {command} --method selective_search")
        with self._open() as connection:
            header = read_header(connection)
            done = connection.execute("SELECT count(*) FROM proposals").fetchone()[0] if header else 0
        if header is None:
            raise DataError(f"{file}: empty; continue: {command} --method selective_search")
        self.command = f"{command} --method {header.method}"
        if json.loads(header.settings)["format"] != FORMAT:
            raise DataError(f"{file}: written by another version of detseg; {self._hint}")
        if header.images != fingerprint(annotations):
            raise DataError(f"{file}: made for other images than those of {annotations.root}; {self._hint}")
        if done != header.total:
            raise DataError(f"{file}: unfinished, {done} of {header.total} images; continue: {self.command}")

    def __getitem__(self, row: int) -> NDArray[np.float32]:
        """Boxes (N, 4) of an image, xyxy in its pixels. Raises DataError if they are damaged."""
        with self._open() as connection:  # each time: processes cannot share a connection
            return read_boxes(connection, row)

    def seconds(self) -> float:
        """Return the mean time for an image."""
        with self._open() as connection:
            return float(connection.execute("SELECT avg(seconds) FROM proposals").fetchone()[0] or 0)

    @property
    def _hint(self) -> str:
        return f"remove it and compute it again: {self.command}"

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
            raise DataError(f"{self.file}: damaged, or no file of proposals ({error}); {self._hint}") from None


class Writer:
    """Add proposals to a file, new or of the same images and settings.

    The file always holds complete images: a crash loses at most those of the last second. Raises DataError if ``file``
    is of other images or settings, something else, or in use.
    """

    def __init__(self, file: Path, header: Header) -> None:
        self.file = file
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self.connection = sqlite3.connect(file, timeout=1, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise DataError(f"{file}: cannot be written: {error}; choose another folder") from None
        try:
            self._begin(header)
        except BaseException:
            self.connection.close()
            raise

    def missing(self) -> list[int]:
        """List the indices of the images without proposals."""
        done = {row for (row,) in self.connection.execute("SELECT row FROM proposals")}
        return [row for row in range(self.total) if row not in done]

    def add(self, row: int, boxes: NDArray[np.float32], seconds: float) -> None:
        """Add the boxes (N, 4) of an image and the time that they took."""
        content = np.ascontiguousarray(boxes, dtype="<f4").tobytes()
        values = (row, content, zlib.crc32(content), seconds)
        self.connection.execute("INSERT INTO proposals VALUES (?, ?, ?, ?)", values)
        if time.monotonic() - self._saved > SECONDS:
            self._save()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        """Commit, also after an error."""
        self.connection.execute("COMMIT")
        self.connection.close()

    def _save(self) -> None:
        self.connection.execute("COMMIT")
        self.connection.execute("BEGIN EXCLUSIVE")
        self._saved = time.monotonic()

    def _begin(self, header: Header) -> None:
        self.total, self._saved = header.total, time.monotonic()
        hint = "remove it, or choose another folder"
        try:
            self.connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # until it is closed
            self.connection.execute("BEGIN EXCLUSIVE")
            existing = read_header(self.connection)
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise DataError(f"{self.file}: another process is writing it; wait for it") from None
            raise DataError(f"{self.file}: cannot be written, or no file of proposals ({error}); {hint}") from None
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise DataError(f"{self.file}: damaged, or no file of proposals ({error}); {hint}") from None
        if existing is None:
            for table in TABLES:
                self.connection.execute(table)
            self.connection.execute("INSERT INTO about VALUES (?, ?, ?, ?)", header)
            self._save()
        elif existing.settings != header.settings:
            raise DataError(f"{self.file}: computed by {existing.method} with {existing.settings}; {hint}")
        elif existing.images != header.images:
            raise DataError(f"{self.file}: made for other images, or some have changed since; {hint}")


def read_header(connection: sqlite3.Connection) -> Header | None:
    """Read the header, None for an empty file. Raises ValueError or sqlite3.Error for any other file."""
    if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        return None
    header = Header(*connection.execute("SELECT * FROM about").fetchone())
    if not all(isinstance(value, str) for value in header[:3]) or not isinstance(header.total, int):
        raise ValueError("its header is invalid")
    return header


def read_boxes(connection: sqlite3.Connection, row: int) -> NDArray[np.float32]:
    """Read the boxes of an image. Raises ValueError if they are damaged."""
    record = connection.execute("SELECT boxes, checksum FROM proposals WHERE row = ?", (row,)).fetchone()
    if record is None or not isinstance(record[0], bytes) or zlib.crc32(record[0]) != record[1]:
        raise ValueError(f"the boxes of image {row}")
    boxes = np.frombuffer(record[0], dtype="<f4").reshape(-1, 4).astype(np.float32)
    if not np.isfinite(boxes).all():
        raise ValueError(f"the boxes of image {row}")
    return boxes
