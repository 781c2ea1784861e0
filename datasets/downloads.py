"""What the scripts that prepare data sets share: downloads that go on, checksums, and unpacking that stays inside."""

from __future__ import annotations

import argparse
import hashlib
import http.client
import shutil
import stat
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

BLOCK = 1 << 20  # bytes
TRIES = 5


class Stop(Exception):
    """What the user must put right."""


class Archive(NamedTuple):
    """A file to download, and how to tell that what it holds is there."""

    address: str
    lacks: Callable[[Path], str]  # what of it a folder lacks that it is unpacked in; empty for nothing
    size: int | None = None  # bytes
    checksum: str = ""  # "md5:..." or "sha256:..."; empty where none is published

    @property
    def name(self) -> str:
        """What the file is called."""
        return PurePosixPath(self.address).name


def options_of(documentation: str, root: str) -> argparse.ArgumentParser:
    """The options that all scripts have."""
    parser = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).parent / root, help="folder to put it in")
    return parser


def download_options_of(documentation: str, root: str) -> argparse.ArgumentParser:
    """The options of the scripts that download."""
    parser = options_of(documentation, root)
    parser.add_argument("--keep", action="store_true", help="keep the downloaded archives")
    return parser


def report(work: Callable[[], None], done: str) -> int:
    """Do it, say what the user must put right, and return the exit status."""
    try:
        work()
    except (Stop, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130
    print(done)
    return 0


def prepare(root: Path, archives: list[Archive], keep: bool, source: str | None = None) -> None:
    """Download, check and unpack the archives that are not there yet; ``source`` is a folder that has all of them."""
    root.mkdir(parents=True, exist_ok=True)
    missing = not_unpacked(root, archives)
    for archive in archives:
        if archive not in missing:
            print(f"{archive.name}: unpacked there already")
    need(root, sum(_to_come(archive, root) for archive in missing), "what is missing, packed and unpacked,")
    for archive in missing:
        file = root / archive.name
        download(f"{source.rstrip('/')}/{archive.name}" if source else archive.address, file)
        check(file, archive.size, archive.checksum)
        unpack(file, root)
        if lack := archive.lacks(root):
            raise Stop(f"{file}: it does not hold {lack}; remove it and run this again")
        if not keep:
            file.unlink()


def not_unpacked(root: Path, archives: list[Archive]) -> list[Archive]:
    """The archives whose content is not there, or not surely all of it, since unpacking them did not end."""
    return [archive for archive in archives if _begun(archive.name, root).exists() or archive.lacks(root)]


def _to_come(archive: Archive, root: Path) -> int:
    """About how many bytes an archive will add to ``root``, packed and unpacked, to those that are there.

    Of one that is half unpacked only the download counts: ``unpack`` knows what is missing of its files.
    """
    there = max(_size(root / archive.name), _size(_part(root / archive.name)))
    copies = 1 if _begun(archive.name, root).exists() else 2
    return max(copies * (archive.size or 0) - there, 0)


def _size(file: Path) -> int:
    """How many bytes of a file are there."""
    return file.stat().st_size if file.is_file() else 0


def files(folder: str, count: int, pattern: str = "*") -> Callable[[Path], str]:
    """What ``Archive.lacks`` is for a folder with so many files."""
    return lambda root: "" if sum(1 for _ in (root / folder).glob(pattern)) >= count else f"{count} files in {folder}"


def download(address: str, file: Path) -> None:
    """Fetch a file, going on where an earlier attempt ended. Raises Stop where it cannot be had."""
    part = _part(file)
    if file.exists():
        return
    if "://" not in address:
        raise Stop(f"{address}: is no address; it must begin with https:// or http://")
    for attempt in range(TRIES):
        if attempt:
            time.sleep(min(2**attempt, 30))
        try:
            fetch(address, part)
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise Stop(f"{address}: {error.code} {error.reason}") from None
            print(f"\n{address}: {error}; trying again")
        except (http.client.InvalidURL, ValueError) as error:
            raise Stop(f"{address}: is no address ({error})") from None
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            print(f"\n{address}: {error}; trying again")
        else:
            part.rename(file)
            return
    raise Stop(f"{address}: cannot be reached; is there a connection to the internet? Running this again goes on")


def _part(file: Path) -> Path:
    """Where a file lies until all of it is downloaded."""
    return file.with_name(file.name + ".part")


def fetch(address: str, part: Path) -> None:
    """Read the rest of a file into ``part``. Raises ConnectionError where it ends before all of it is there."""
    have = _size(part)
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # There is nothing after what we have: it is all there, unless the file is another one by now.
        if error.headers.get("Content-Range", "").rpartition("/")[2] == str(have):
            return
        part.unlink()
        raise ConnectionError("the file has changed since it was begun") from None
    with answer:
        if answer.status != 206:  # the server sends all of it, whatever we ask for
            have = 0
        length = answer.headers.get("Content-Length")  # an answer in chunks has none
        total = None if length is None else have + int(length)
        of = "" if total is None else f" of {total / 1e6:,.0f}"
        need(part.parent, int(length or 0), part.stem)
        with part.open("ab" if have else "wb") as stream:
            while block := answer.read(BLOCK):
                stream.write(block)
                have += len(block)
                print(f"\r{part.stem}: {have / 1e6:,.0f}{of} MB", end="", flush=True)
    print()
    if total is not None and have != total:
        raise ConnectionError(f"it ended after {have:,} of {total:,} bytes")


def check(file: Path, size: int | None, checksum: str) -> None:
    """Raise Stop where a file has another size or checksum than the one that is known."""
    found = file.stat().st_size
    if size is not None and found != size:
        raise Stop(f"{file}: has {found:,} bytes, not {size:,}; remove it and run this again")
    if not checksum:
        print(f"{file.name}: no checksum of it is published; its size is {'right' if size else 'not known either'}")
        return
    print(f"{file.name}: checking")
    method, _, expected = checksum.partition(":")
    with file.open("rb") as stream:
        computed = hashlib.file_digest(stream, method).hexdigest()
    if computed != expected:
        raise Stop(f"{file}: its {method} is {computed}, not {expected}; it is damaged or another file: remove it")


def unpack(archive: Path, root: Path) -> None:
    """Unpack a zip or tar archive into ``root``. Raises Stop if it is damaged, or would write elsewhere.

    Nothing but files and folders is unpacked: a link could lead out of ``root``, and a device is no data. A mark lies
    in ``root`` from the first file to the last, so that what is half unpacked does not pass for all.
    """
    print(f"{archive.name}: unpacking")
    begun = _begun(archive.name, root)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as content:
                members = content.infolist()
                for member in members:
                    kind = stat.S_IFMT(member.external_attr >> 16)
                    _allow(archive, root, member.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR))
                lacking = (max(member.file_size - _size(root / member.filename), 0) for member in members)
                need(root, sum(lacking), archive.name)
                begun.touch()
                content.extractall(root)  # compares the checksum of each file
        else:
            with tarfile.open(archive) as content:
                members = content.getmembers()
                for member in members:
                    _allow(archive, root, member.name, member.isfile() or member.isdir())
                lacking = (max(member.size - _size(root / member.name), 0) for member in members)
                need(root, sum(lacking), archive.name)
                content.extraction_filter = getattr(tarfile, "data_filter", None)  # the same again, and modes
                begun.touch()
                content.extractall(root)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as error:
        raise Stop(f"{archive}: damaged ({error}); remove it and run this again") from None
    begun.unlink()


def _begun(name: str, root: Path) -> Path:
    """The mark of an archive that is being unpacked into ``root``."""
    return root / f"{name}.unpacking"


def _allow(archive: Path, root: Path, name: str, plain: bool) -> None:
    """Raise Stop for a member of an archive that is no file or folder in ``root``."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise Stop(f"{archive}: {name!r} would leave {root}; this is not the archive it should be")
    if not plain:
        raise Stop(f"{archive}: {name!r} is a link or a device; this is not the archive it should be")


def need(folder: Path, size: int, what: str) -> None:
    """Raise Stop where less than ``size`` bytes are free."""
    free = shutil.disk_usage(folder).free
    if free < size:
        lack = f"make room for {_amount(size - free)} more"
        raise Stop(f"{folder}: {what} needs {_amount(size)}, but only {_amount(free)} are free; {lack}")


def _amount(size: int) -> str:
    """A number of bytes in the unit that suits it."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"
