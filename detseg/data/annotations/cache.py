"""Cache of large annotation files as memory-mapped arrays.

An entry is one file of consecutive ``.npy`` blocks, of which the first is a JSON header. Processes that map the same
file share its memory, and only the pages that are used take any.
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
from detseg.data.annotations.masks import Masks

log = logging.getLogger(__name__)

VERSION = 3  # of the arrays and of the reader: raise it when either changes
MIN_BYTES = 8 << 20  # smaller annotation files are not cached
ALIGNED = 64  # bytes to which blocks are aligned, as numpy wants


def cached(
    file: Path,
    settings: list[str],
    read: Callable[[], tuple[DetectionAnnotations, bool]],
    min_bytes: int = MIN_BYTES,
) -> DetectionAnnotations:
    """Return what ``read`` makes of an annotation file under these ``settings``, from the cache if it is there.

    ``read`` also tells if the result depends on the file alone; anything else is not cached, as other files may change.
    An entry belongs to a path, a size and a modification time; it is made anew if these differ or it cannot be read.
    Files below ``min_bytes`` are not cached. Warnings logged while reading are stored, and logged again. A cache that
    cannot be written is no error.
    """
    try:
        status = file.stat()
    except OSError:
        return read()[0]  # which raises the error
    if status.st_size < min_bytes:
        return read()[0]
    key = [str(file.resolve()), *settings]
    state = [VERSION, status.st_size, status.st_mtime_ns, *key]
    cache = folder() / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.arrays"
    if entry := load(cache, state):
        annotations, warnings = entry
        log.info("%s: taken from its cache %s", file, cache)
        for message in warnings:
            log.warning("%s", message)
        return annotations
    with record_warnings() as warnings:
        annotations, cacheable = read()
    if not cacheable:
        return annotations
    try:
        save(cache, state, annotations, warnings)
    except OSError as error:
        log.warning("%s: cannot be kept in %s, so it will take as long the next time: %s", file, cache.parent, error)
    entry = load(cache, state)  # so that the memory can be given back
    return entry[0] if entry else annotations


def folder() -> Path:
    """Folder of the cache: ``detseg/annotations`` in XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "detseg", "annotations")


def save(cache: Path, state: list[Any], annotations: DetectionAnnotations, warnings: list[str]) -> None:
    """Write an entry atomically. Raises OSError."""
    arrays = {}
    for name, holder in (("", annotations), ("masks.", annotations.masks)):
        for field in fields(holder) if holder is not None else ():
            if isinstance(value := getattr(holder, field.name), np.ndarray):
                arrays[name + field.name] = value
    head = {
        "state": state,
        "warnings": warnings,
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
    """Load the annotations and warnings of an entry; None if there is no valid one of this ``state``."""
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
        return annotations, head["warnings"]
    except (OSError, ValueError, KeyError, TypeError, StopIteration):  # no file, or a damaged one
        return None


def _blocks(content: mmap.mmap) -> Iterator[NDArray[Any]]:
    """Arrays of a cache file, as views of its memory."""
    place = 0
    while place < len(content):
        head = io.BytesIO(content[place : place + 4096])
        if np.lib.format.read_magic(head) != (1, 0):
            raise ValueError("unsupported version of a block")
        shape, _, dtype = np.lib.format.read_array_header_1_0(head)
        if dtype.hasobject:
            raise ValueError("an array of objects")
        place += head.tell()
        count = int(np.prod(shape))
        yield np.frombuffer(content, dtype, count, place).reshape(shape)
        place += count * dtype.itemsize
        place += -place % ALIGNED


@contextmanager
def record_warnings() -> Iterator[list[str]]:
    """Record the warnings that ``detseg.data`` logs."""
    messages: list[str] = []

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger, recorder = logging.getLogger("detseg.data"), Recorder(logging.WARNING)
    logger.addHandler(recorder)
    try:
        yield messages
    finally:
        logger.removeHandler(recorder)
