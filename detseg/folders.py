"""Files and folders: those that commands write to, made and looked at before the work begins, and unsafe paths."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detseg.errors import ConfigError


def is_path_traversal(name: str) -> bool:
    """Check whether a path in a data file may lead out of the folder that it is relative to."""
    path = name.replace("\\", "/")  # of many, for which PurePosixPath takes long
    return path.startswith("/") or name[1:2] == ":" or (".." in path and ".." in path.split("/"))


def make_folder(option: str, folder: Path, source: Path | None = None) -> None:
    """Make the folder that an option names; one for a copy of the data set ``source`` must be empty, and outside of it.

    Raises ConfigError where that is not so, or where nothing can be written to the folder.
    """
    with writing(option, folder):
        if source is not None:
            if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
                raise ConfigError(f"{option} {folder}: is not an empty folder; give a new one")
            if folder.resolve().is_relative_to(source.resolve()):
                raise ConfigError(
                    f"{option} {folder}: lies in the data set, which is never touched; give a folder elsewhere"
                )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{option} {folder}: cannot be made a folder: {error.strerror}; name another") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{option} {folder}: nothing can be written to this folder; name another")


def check_writable(option: str, file: Path | None) -> None:
    """Create the folder of an option's file. Raises ConfigError if the file cannot be written."""
    if file is None:
        return
    if file.is_dir():
        raise ConfigError(f"{option} {file}: is a folder; give the name of a file")
    with writing(option, file):
        file.parent.mkdir(parents=True, exist_ok=True)
        exists = file.exists()
        file.open("a", encoding="utf-8").close()
        if not exists:
            file.unlink()


@contextmanager
def writing(option: str, place: Path) -> Iterator[None]:
    """Raise what goes wrong with files inside, such as a full disk, as ConfigError that names the option."""
    try:
        yield
    except OSError as error:
        file = f" ({error.filename})" if error.filename else ""
        hint = "; make room there, or name another place" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise ConfigError(f"{option} {place}: cannot be written: {error.strerror or error}{file}{hint}") from error
