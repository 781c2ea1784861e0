"""Annotations that took long to read, kept as the arrays they became: mapped into memory the next time, not read.

A cache is one file: ``.npy`` blocks one behind the other, of which the first is JSON that says what the others are.
Processes that map the same file share its memory, and only pages that are looked at take any.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.issues import collects
from detseg.data.annotations.masks import Masks

log = logging.getLogger(__name__)

VERSION = 3  # of the arrays and of what is read into them: raise it when a reader changes
LEAST = 8 << 20  # bytes of an annotation file that takes long
ALIGNED = 64  # where a block begins, so that its numbers lie as numpy wants them


def cached(
    file: Path, settings: list[str], read: Callable[[], tuple[DetectionAnnotations, bool]], least: int = LEAST
) -> DetectionAnnotations:
    """What ``read`` makes of an annotation file under these ``settings``, from its cache if there is one.

    ``read`` says too whether all of it comes from the file: what other files say is not kept, as these may change.

    A cache is of a path, a size and a time of change; another one is made anew, as is one that cannot be read. Files
    below ``least`` bytes have none. What was said in the log while reading is said again. It is no error if a cache
    cannot be written. Where faults are collected, nothing is taken from a cache, which has none, nor put there.
    """
    if collects():
        return read()[0]
    try:
        about = file.stat()
    except OSError:
        return read()[0]  # which says what is wrong
    if about.st_size < least:
        return read()[0]
    of = [str(file.resolve()), *settings]
    state = [VERSION, about.st_size, about.st_mtime_ns, *of]
    cache = folder() / f"{hashlib.sha256(json.dumps(of).encode()).hexdigest()[:32]}.arrays"
    if found := load(cache, state):
        annotations, said = found
        log.info("%s: taken from its cache %s", file, cache)
        for message in said:
            log.warning("%s", message)
        return annotations
    with listening() as said:
        annotations, lasting = read()
    if not lasting:
        return annotations
    try:
        save(cache, state, annotations, said)
    except OSError as error:
        log.warning("%s: cannot be kept in %s, so it will take as long the next time: %s", file, cache.parent, error)
    found = load(cache, state)  # so that the memory can be given back
    return found[0] if found else annotations


def folder() -> Path:
    """Where caches lie: ``annotations`` in the user's cache folder for detseg, XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "detseg", "annotations")


def save(cache: Path, state: list[Any], annotations: DetectionAnnotations, said: list[str]) -> None:
    """Write a cache: it is there whole or not at all. Raises OSError."""
    arrays = {}
    for name, holder in (("", annotations), ("masks.", annotations.masks)):
        for field in fields(holder) if holder is not None else ():
            if isinstance(value := getattr(holder, field.name), np.ndarray):
                arrays[name + field.name] = value
    head = {
        "state": state,
        "said": said,
        "arrays": list(arrays),
        "classes": annotations.classes,
        "category_ids": annotations.category_ids,
        "root": str(annotations.root),
    }
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("wb", dir=cache.parent, prefix=".new-", delete=False) as written:
        try:
            for array in (np.frombuffer(json.dumps(head).encode(), dtype=np.uint8), *arrays.values()):
                written.write(bytes(-written.tell() % ALIGNED))
                np.lib.format.write_array(written.file, array, version=(1, 0), allow_pickle=False)
            written.flush()
            os.fsync(written.fileno())  # else a power cut could leave a file of the right length without its content
            written.close()
            os.replace(written.name, cache)
        except BaseException:
            with suppress(OSError):
                os.unlink(written.name)
            raise


def load(cache: Path, state: list[Any]) -> tuple[DetectionAnnotations, list[str]] | None:
    """The annotations of a cache and what was said of them; None where there is none of this ``state``."""
    try:
        with open(cache, "rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        blocks = _blocks(content)
        head = json.loads(next(blocks).tobytes())
        if head["state"] != state:
            return None
        arrays = dict(zip(head["arrays"], blocks, strict=True))
        masks = {name.removeprefix("masks."): arrays.pop(name) for name in head["arrays"] if name.startswith("masks.")}
        annotations = DetectionAnnotations(
            classes=tuple(head["classes"]),
            category_ids=tuple(head["category_ids"]),
            root=Path(head["root"]),
            **arrays,
            masks=Masks(**masks) if masks else None,
        )
        return annotations, head["said"]
    except (OSError, ValueError, KeyError, TypeError, StopIteration):  # none, or a damaged one
        return None


def _blocks(content: mmap.mmap) -> Iterator[NDArray[Any]]:
    """The arrays of a cache, over its memory."""
    place = 0
    while place < len(content):
        head = io.BytesIO(content[place : place + 4096])
        if np.lib.format.read_magic(head) != (1, 0):
            raise ValueError("another version of the blocks")
        shape, _, dtype = np.lib.format.read_array_header_1_0(head)
        if dtype.hasobject:
            raise ValueError("an array of objects")
        place += head.tell()
        count = int(np.prod(shape))
        yield np.frombuffer(content, dtype, count, place).reshape(shape)
        place += count * dtype.itemsize
        place += -place % ALIGNED


@contextmanager
def listening() -> Iterator[list[str]]:
    """Take down the warnings of this package's data."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    above, listener = logging.getLogger("detseg.data"), Listener(logging.WARNING)
    above.addHandler(listener)
    try:
        yield said
    finally:
        above.removeHandler(listener)
