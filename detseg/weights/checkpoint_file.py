"""Checkpoint files: written atomically (beside their target, flushed, renamed) and verified by a digest."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from detseg.errors import CheckpointError

MARK = b"detseg sha256 "
TAIL = len(MARK) + 64 + 1  # the mark, the digest in hexadecimal digits and a line feed, after the archive of torch.save


class _Hashing:
    """A file that computes the digest of everything written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256 = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def write(content: Mapping[str, Any], path: Path, previous: Path | None = None) -> None:
    """Write a file of ``torch.save`` atomically, with a digest at its end.

    The old file is kept as ``previous`` if that is given. Raises CheckpointError if the file cannot be written.
    """
    part = path.with_name(f"{path.name}.part")  # beside it: a rename across file systems would copy
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            hashing = _Hashing(file)
            torch.save(content, hashing)  # type: ignore[arg-type]  # it writes and flushes
            file.write(MARK + hashing.sha256.hexdigest().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave the name without the content
        if previous is not None and path.exists():
            previous.unlink(missing_ok=True)
            try:
                os.link(path, previous)  # so that ``path`` exists at every moment
            except OSError:  # a file system without links
                path.replace(previous)
        part.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save turns an OSError of its file into a RuntimeError
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: cannot be written: {_reason(error, content, path)}") from error


def _reason(error: BaseException, content: Mapping[str, Any], path: Path) -> str:
    causes = (error, error.__cause__, error.__context__)
    cause = next((cause for cause in causes if isinstance(cause, OSError)), error)
    reason = (cause.strerror if isinstance(cause, OSError) else None) or str(cause).partition("\n")[0]
    if isinstance(cause, OSError) and cause.errno not in (errno.ENOSPC, errno.EDQUOT):
        return reason
    with suppress(OSError):
        free = shutil.disk_usage(path.parent).free
        return (
            f"{reason}; it needs {_size(content) / 2**20:.0f} MiB, and {free / 2**20:.0f} MiB are free in {path.parent}"
        )
    return reason


def _size(value: Any) -> int:
    """Count the bytes of all tensors in a checkpoint."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, Sequence) and not isinstance(value, str) else 0


def check(path: Path) -> None:
    """Compare a file with the digest at its end. Raises CheckpointError if it changed; a file without one passes."""
    with path.open("rb") as file:
        length = max(0, file.seek(0, os.SEEK_END) - TAIL)
        file.seek(length)
        tail = file.read()
        if not tail.startswith(MARK):
            return
        file.seek(0)
        sha256 = hashlib.sha256()
        while length and (data := file.read(min(length, 2**22))):
            sha256.update(data)
            length -= len(data)
    if tail[len(MARK) : -1] != sha256.hexdigest().encode():
        raise CheckpointError(f"{path}: damaged: its content does not match its SHA-256 digest")
