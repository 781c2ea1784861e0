"""Sources of images by name: files, folders, patterns, lists, tables, archives, addresses and standard input."""

from __future__ import annotations

import csv
import glob
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from detseg.data.annotations.images import SUFFIXES
from detseg.errors import DataError, DetsegError
from detseg.inference.archives import ARCHIVES, COMPRESSED, ImageAddress, list_addresses, list_archive

STDIN = "-"


def list_images(sources: Iterable[str | Path], recursive: bool = False, column: str = "file") -> Iterator[str]:
    """List the names of the images in sources, one name for a file; ``image_file`` opens a name.

    A source is an image file, a folder (with its subfolders if ``recursive``), a glob pattern, a text file with a name
    in each line, the ``column`` of a CSV or Parquet file, a zip or tar archive, a URL that fsspec opens, or "-", names
    from standard input. Names in lists and tables are relative to the current folder, as those of the command line.

    Raises DataError for a source without images, DetsegError for one that needs a package that is not installed.
    """
    for source in map(str, sources):
        if not source:
            raise DataError(
                "an image has an empty name, perhaps of a variable that is not set; name a file or a folder"
            )
        empty = True
        for name in _list_source(source, recursive, column):
            empty = False
            yield str(image_file(name))  # ./a.jpg is a.jpg
        if empty:
            raise DataError(f"{source}: no image there")


def _list_source(source: str, recursive: bool, column: str) -> Iterable[str]:
    path = Path(source)
    suffix = path.suffix.lower()
    if source == STDIN:
        return _read_stdin()
    if "://" in source:
        return list_addresses(source, recursive)
    if path.is_dir():
        return _list_folder(path, recursive)
    if not path.exists():
        return _glob(source)
    if source.lower().endswith(COMPRESSED):
        raise DataError(f"{source}: images in a compressed tar cannot be read one by one; make it a .zip or .tar")
    if suffix in ARCHIVES:
        return list_archive(path)
    return LISTS[suffix](path, column) if suffix in LISTS else [source]


def find_images(source: str | Path | Iterable[str | Path]) -> list[Path]:
    """List the image files of a file name, a folder, a glob pattern, or several of them.

    Raises DataError if there are none, and for images that are no files of their own, as those of an archive.
    """
    names = [*list_images([source] if isinstance(source, (str, Path)) else source)]
    if address := next((name for name in names if "://" in name), None):
        raise DataError(f"{address}: must be a file on this disk; unpack or copy it")
    return [*map(Path, names)]


def image_file(name: str) -> Path | ImageAddress:
    """Return the file or the address that a name of ``list_images`` stands for."""
    return ImageAddress(name) if "://" in name else Path(name)


def _list_folder(folder: Path, recursive: bool) -> Iterator[str]:
    empty = True
    for path, folders, files in os.walk(folder, onerror=_fail):
        folders[:] = sorted(folders) if recursive else []
        for name in sorted(files):
            if os.path.splitext(name)[1].lower() in SUFFIXES:
                empty = False
                yield str(Path(path, name))
    if empty:
        below = "" if recursive else "; those of folders in it are taken with `recursive=true`"
        raise DataError(f"{folder}: no image in this folder ({', '.join(SUFFIXES)}){below}")


def _fail(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot read this folder: {error.strerror}") from error


def _glob(pattern: str) -> list[str]:
    names = sorted(glob.glob(pattern, recursive=True))
    if not names:
        raise DataError(f"{pattern}: no such image, folder or pattern")
    return names


def _read_stdin() -> Iterator[str]:
    if sys.stdin is None:
        raise DataError(f"{STDIN}: standard input is closed; pipe names of images into it, or write them to a .txt")
    lines = (line.decode("utf-8-sig", "surrogateescape") for line in sys.stdin.buffer)
    yield from _lines(_check_text(STDIN, lines))


def _check_text(source: str | Path, lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a text. Raises DataError for one in UTF-16, or a file of another kind."""
    for line in lines:
        if "\0" in line:
            raise DataError(f"{source}: not a text in UTF-8; save it as one, with a name in each line")
        yield line


def _lines(lines: Iterable[str]) -> Iterator[str]:
    return (line for line in map(str.strip, lines) if line)


def _read_text(path: Path, _: str) -> Iterator[str]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:  # as Python decodes names of files
        yield from _lines(_check_text(path, file))


def _read_csv(path: Path, column: str) -> Iterator[str]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        table = csv.DictReader(_check_text(path, file))
        try:
            _check_column(path, column, table.fieldnames or [])
            yield from _lines(row[column] or "" for row in table)
        except csv.Error as error:
            raise DataError(f"{path}: cannot read this table: {error}") from None


def _read_parquet(path: Path, column: str) -> Iterator[str]:
    pyarrow = import_pyarrow(str(path))
    try:
        table = pyarrow.parquet.ParquetFile(path)
        _check_column(path, column, table.schema_arrow.names)
        for batch in table.iter_batches(columns=[column]):
            names = batch.column(0).to_pylist()
            if not all(isinstance(name, str | None) for name in names):
                kind = table.schema_arrow.field(column).type
                raise DataError(f"{path}: column {column} holds {kind}, not names; name another one: `column=NAME`")
            yield from _lines(name or "" for name in names)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: cannot read this table: {error}") from None


def _check_column(path: Path, column: str, columns: Iterable[str]) -> None:
    if column not in columns:
        there = ", ".join(columns) or "none"
        raise DataError(
            f"{path}: has no column {column}; name the one with the images: `column=NAME`; there is {there}"
        )


def import_pyarrow(purpose: str) -> Any:
    """Import Apache Arrow with its Parquet files. Raises DetsegError, which begins with ``purpose``, without it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DetsegError(f"{purpose}: Parquet needs the package pyarrow: pip install 'detseg[parquet]'") from error
    return pyarrow


LISTS = {".txt": _read_text, ".csv": _read_csv, ".parquet": _read_parquet}
