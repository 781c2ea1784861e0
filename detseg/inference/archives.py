"""Images in zip and tar archives and at fsspec URLs, read without unpacking anything to disk.

A member has the address that fsspec gives it, such as ``zip://folder/a.jpg::photos.zip``.
"""

from __future__ import annotations

import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from detseg.data.annotations.images import SUFFIXES, max_pixels
from detseg.errors import DataError, DetsegError
from detseg.folders import is_path_traversal

ARCHIVES = {".zip": "zip", ".tar": "tar"}  # protocols by suffix
COMPRESSED = (".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
MAX_BYTES_PER_PIXEL = 8  # of a file: 16 bits for each of four channels, without compression
BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class ImageAddress:
    """The address of an image: of a member of an archive, or a URL that fsspec opens."""

    address: str

    def __str__(self) -> str:
        return self.address

    @property
    def name(self) -> str:
        """Last part of the path."""
        return PurePosixPath(self.address.partition("::")[0].partition("://")[2]).name

    @property
    def suffix(self) -> str:
        """Ending of the name, with the dot."""
        return PurePosixPath(self.name).suffix

    def read_bytes(self) -> bytes:
        """Read an image that is not a file on disk. Raises DataError, naming the address, if that fails."""
        path, _, archive = self.address.partition("::")
        protocol, _, member = path.partition("://")
        if "://" in archive or protocol not in ARCHIVES.values():
            return self._read_url()
        try:
            return self._read_zip(archive, member) if protocol == "zip" else self._read_tar(archive, member)
        except KeyError:
            raise DataError(f"{self}: no such member in {archive}") from None
        except (OSError, *BROKEN) as error:
            raise DataError(f"{self}: cannot read this image: {error}") from None

    def _read_zip(self, archive: str, member: str) -> bytes:
        opened = _open_zip(archive)
        entry = opened.getinfo(member)
        self._check_size(entry.file_size)
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # the size would not bound the others
            raise DataError(f"{self}: is not compressed by deflate; pack the archive again")
        with opened.open(entry) as file:
            return file.read(entry.file_size)  # without the number, zipfile would unpack all that the stream holds

    def _read_tar(self, archive: str, member: str) -> bytes:
        start, size = _tar_index(archive)[member]
        self._check_size(size)
        with open(archive, "rb") as file:
            file.seek(start)
            return file.read(size)

    def _read_url(self) -> bytes:
        fsspec = import_fsspec()
        try:
            with fsspec.open(self.address, "rb") as file:
                content: bytes = file.read(MAX_BYTES_PER_PIXEL * max_pixels() + 1)
        except Exception as error:  # each protocol has its own
            raise DataError(f"{self}: cannot read this image: {error}") from None
        self._check_size(len(content))
        return content

    def _check_size(self, size: int) -> None:
        if size > MAX_BYTES_PER_PIXEL * max_pixels():
            raise DataError(f"{self}: {size:,} bytes, more than the largest image has; leave it out")


@dataclass(frozen=True)
class ImageContent:
    """The content of an image file, and the address that its result has."""

    content: bytes
    address: str = "image"

    def __str__(self) -> str:
        return self.address

    @property
    def name(self) -> str:
        """Last part of the address."""
        return PurePosixPath(self.address).name

    @property
    def suffix(self) -> str:
        """Ending of the name, with the dot."""
        return PurePosixPath(self.address).suffix

    def read_bytes(self) -> bytes:
        """Return the content."""
        return self.content


def list_archive(path: Path) -> Iterator[str]:
    """List the addresses of the images in a zip or tar archive, in their order there.

    Raises DataError for an archive that is broken, and for a member whose path leads out of its folder.
    """
    protocol = ARCHIVES[path.suffix.lower()]
    try:
        names = _open_zip(str(path)).namelist() if protocol == "zip" else [*_tar_index(str(path))]
    except (OSError, *BROKEN) as error:
        raise DataError(f"{path}: cannot read this archive: {error}; copy or pack it again") from None
    for name in names:
        if PurePosixPath(name).suffix.lower() not in SUFFIXES or name.startswith("__MACOSX/"):  # of no images
            continue
        if is_path_traversal(name):
            raise DataError(f"{path}: its member {name} leads out of the folder; pack the archive again without it")
        yield f"{protocol}://{name}::{path}"


def list_addresses(address: str, recursive: bool) -> Iterator[str]:
    """List the images of a URL that fsspec opens: of a file, a folder or a pattern.

    Raises DetsegError without fsspec or its part for the protocol, DataError for one that cannot be opened.
    """
    fsspec = import_fsspec()
    url, chain, rest = address.partition("::")
    try:
        system, path = fsspec.core.url_to_fs(address)
        if "*" in url:
            paths = system.glob(path)
        else:
            paths = system.find(path, maxdepth=None if recursive else 1) if system.isdir(path) else [path]
    except (ImportError, ValueError) as error:  # the message of fsspec names the package to install
        raise DetsegError(f"{address}: {error}") from None
    except Exception as error:  # each protocol has its own
        raise DataError(f"{address}: cannot be opened: {error}") from None
    if paths != [path]:
        paths = [one for one in paths if PurePosixPath(one).suffix.lower() in SUFFIXES]
    for one in paths:
        yield f"{system.unstrip_protocol(one)}{chain}{rest}"


def import_fsspec() -> Any:
    """Import fsspec. Raises DetsegError if it is not installed."""
    try:
        import fsspec.core
    except ImportError as error:
        raise DetsegError("URLs such as s3://bucket/a.jpg need fsspec: pip install 'detseg[fsspec]'") from error
    return fsspec


def _open_zip(path: str) -> zipfile.ZipFile:
    """Open a zip archive once for all threads, which may read from it at the same time."""
    return _cached_zip(path, os.stat(path).st_mtime_ns)


def _tar_index(path: str) -> dict[str, tuple[int, int]]:
    """Find the first byte and the size of each file in a tar archive that is not compressed."""
    return _cached_tar_index(path, os.stat(path).st_mtime_ns)


@lru_cache(maxsize=8)
def _cached_zip(path: str, _: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


@lru_cache(maxsize=8)
def _cached_tar_index(path: str, _: int) -> dict[str, tuple[int, int]]:
    with tarfile.open(path, "r:") as archive:
        return {member.name: (member.offset_data, member.size) for member in archive if member.isreg()}
