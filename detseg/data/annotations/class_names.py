"""Class names of folders of label images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from detseg.constants import IGNORE_INDEX
from detseg.errors import DataError

FILES = ("classes.json", "classes.txt", "class_names.txt")


def find_classes(
    root: Path, default: Sequence[str] | None = None, void: Sequence[int] = ()
) -> tuple[Path, tuple[str, ...], tuple[int, ...]]:
    """Return the source of the class names, the names of the classes 0, 1 ..., and the numbers of void pixels.

    classes.txt has a name in each line; empty lines may follow. classes.json is a list of names, or has it as
    "classes", with the number of void pixels as "ignore_index"; 255 is void as well. Without a file, these are
    ``default`` and ``void``. Raises DataError for a broken file, and for no file without a default.
    """
    file = next((root / name for name in FILES if (root / name).is_file()), None)
    if file is None:
        if default is None:
            raise DataError(f"{root}: it has no classes.txt with the name of a class in each line, nor a classes.json")
        return root, tuple(default), (*void, IGNORE_INDEX)
    try:
        text = file.read_text(encoding="utf-8-sig")  # some editors begin a file with a byte order mark
        if file.suffix == ".txt":
            return file, _lines(file, text), (IGNORE_INDEX,)
        content = json.loads(text)
    except OSError as error:
        raise DataError(f"{file}: cannot read the names of the classes: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: cannot read the names of the classes: {error}") from None
    content = content if isinstance(content, dict) else {"classes": content}
    names, ignored = content.get("classes"), content.get("ignore_index", IGNORE_INDEX)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{file}: it has no list of names of classes")
    if not isinstance(ignored, int) or not len(names) <= ignored <= IGNORE_INDEX:
        raise DataError(
            f"{file}: ignore_index is {ignored!r}; it must be a number after the classes, at most {IGNORE_INDEX}"
        )
    return file, tuple(names), (ignored, IGNORE_INDEX)


def _lines(file: Path, text: str) -> tuple[str, ...]:
    """Read a name from each line. Raises DataError for an empty line, whose class would be unclear."""
    names = tuple(line.strip() for line in text.rstrip().splitlines())
    if "" in names:
        raise DataError(
            f"{file}: line {names.index('') + 1} is empty; each line names the class of its number, the first one 0: "
            "take it out, or name the class"
        )
    return names
