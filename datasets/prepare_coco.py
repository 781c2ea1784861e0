"""Download COCO 2017 (images and annotations: 20 GB, and as much again to unpack them) and lay it out.

    python datasets/prepare_coco.py [--root datasets/coco] [--splits val] [--keep]

It goes on where it was interrupted, and leaves alone what is already there.
"""

from __future__ import annotations

import argparse
import http.client
import shutil
import sys
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path, PurePosixPath

SOURCE = "http://images.cocodataset.org"
ARCHIVES = {  # where it is below SOURCE, the folder it holds, and how many files there must be in that
    "annotations": ("annotations/annotations_trainval2017.zip", "annotations", 6),
    "train": ("zips/train2017.zip", "train2017", 118_287),
    "val": ("zips/val2017.zip", "val2017", 5_000),
}
BLOCK = 1 << 20  # bytes
TRIES = 5


class Stop(Exception):
    """What the user must put right."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).parent / "coco", help="folder to put it in")
    parser.add_argument("--splits", nargs="+", choices=("train", "val"), default=["train", "val"], help="images to get")
    parser.add_argument("--keep", action="store_true", help="keep the downloaded archives")
    parser.add_argument("--source", default=SOURCE, help="address of a mirror")
    options = parser.parse_args(arguments)
    try:
        prepare(options.root, ["annotations", *options.splits], options.source, options.keep)
    except (Stop, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130
    print(f"COCO is in {options.root}")
    return 0


def prepare(root: Path, names: list[str], source: str, keep: bool) -> None:
    """Download, check and unpack the archives that are not there yet."""
    root.mkdir(parents=True, exist_ok=True)
    for name in names:
        path, folder, count = ARCHIVES[name]
        if complete(root / folder, count):
            print(f"{folder}: there already")
            continue
        archive = root / PurePosixPath(path).name
        download(f"{source.rstrip('/')}/{path}", archive)
        unpack(archive, root)
        if not complete(root / folder, count):
            raise Stop(f"{archive}: it does not hold {count} files in {folder}; remove it and run this again")
        if not keep:
            archive.unlink()


def complete(folder: Path, count: int) -> bool:
    """Say whether a folder holds so many files."""
    return folder.is_dir() and sum(1 for _ in folder.iterdir()) >= count


def download(address: str, file: Path) -> None:
    """Fetch a file, going on where an earlier attempt ended. Raises Stop where it cannot be had."""
    part = file.with_name(file.name + ".part")
    if file.exists():
        return
    for attempt in range(TRIES):
        if attempt:
            time.sleep(min(2**attempt, 30))
        try:
            fetch(address, part)
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise Stop(f"{address}: {error.code} {error.reason}") from None
            print(f"\n{address}: {error}; trying again")
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            print(f"\n{address}: {error}; trying again")
        else:
            part.rename(file)
            return
    raise Stop(f"{address}: cannot be reached; is there a connection to the internet? Running this again goes on")


def fetch(address: str, part: Path) -> None:
    """Read the rest of a file into ``part``. Raises ConnectionError where it ends before all of it is there."""
    have = part.stat().st_size if part.exists() else 0
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
        total = have + int(answer.headers["Content-Length"])
        need(part.parent, total - have, part.stem)
        with part.open("ab" if have else "wb") as stream:
            while block := answer.read(BLOCK):
                stream.write(block)
                have += len(block)
                print(f"\r{part.stem}: {have / 1e6:,.0f} of {total / 1e6:,.0f} MB", end="", flush=True)
    print()
    if have != total:
        raise ConnectionError(f"it ended after {have:,} of {total:,} bytes")


def unpack(archive: Path, root: Path) -> None:
    """Unpack an archive into ``root``. Raises Stop if it is damaged, or would write elsewhere."""
    print(f"{archive.name}: unpacking")
    try:
        with zipfile.ZipFile(archive) as content:
            members = content.infolist()
            for member in members:
                path = PurePosixPath(member.filename)
                if path.is_absolute() or ".." in path.parts or "\\" in member.filename or ":" in member.filename:
                    raise Stop(f"{archive}: {member.filename!r} would leave {root}; this is not an archive of COCO")
            need(root, sum(member.file_size for member in members), archive.name)
            content.extractall(root)  # compares the checksum of each file
    except (zipfile.BadZipFile, EOFError) as error:
        raise Stop(f"{archive}: damaged ({error}); remove it and run this again") from None


def need(folder: Path, size: int, what: str) -> None:
    """Raise Stop where less than ``size`` bytes are free."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise Stop(f"{folder}: {what} needs {size / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free")


if __name__ == "__main__":
    sys.exit(main())
