"""Settings of YOLO data sets: data.yaml, and the files that name the classes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from detseg.data.formats.layout import Tree, read_text
from detseg.errors import DataError

LISTS = ("classes.txt", ".names", "_darknet.labels")  # endings of files with the name of a class in each line
YAML = (".yaml", ".yml")
SETTINGS = (*YAML, ".data")  # Darknet's obj.data has lines such as `train = data/train.txt`


def read_settings(file: Path) -> dict[str, Any]:
    """Read a YAML file with every value as written, no is a name and not false, or a .data file. Raises DataError."""
    if file.suffix not in YAML:
        pairs = (line.partition("=") for line in read_text(file).splitlines())
        return {key.strip(): value.strip() for key, sign, value in pairs if sign}
    try:
        content = yaml.load(read_text(file), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        raise DataError(f"{file}: broken YAML: {error}") from None
    return content if isinstance(content, dict) else {}


def is_yolo_settings(file: Path) -> bool:
    """Tell if a file is a data.yaml of YOLO, and no configuration of this package."""
    if file.suffix.lower() not in YAML or not file.is_file():
        return False
    try:
        keys = read_settings(file).keys()
    except DataError:
        return False
    return bool(keys & {"names", "nc"}) and not keys & {"class_path", "data", "model"}


def read_keypoint_count(root: Path) -> int | None:
    """Read how many numbers of key points follow each box, by the kpt_shape of a file of ``root``; None for no key."""
    for file in Tree(root).ending(*YAML):
        shape = read_settings(root / file).get("kpt_shape") if "/" not in file else None
        if isinstance(shape, list):
            if not all(isinstance(number, str) and number.isascii() and number.isdigit() for number in shape):
                raise DataError(f"{root / file}: kpt_shape is {shape}; it must be two numbers, as in [17, 3]")
            return math.prod(map(int, shape)) if shape else 0
    return None


def read_names(root: Path, only: str | None = None) -> dict[int, str]:
    """Read the names of the classes by number, from files in ``root`` or below it, or from one file.

    Raises DataError for none, for two that disagree, and for a name that occurs twice.
    """
    files = [only] if only else Tree(root).ending(*LISTS, *YAML)
    names = _names_of(root, [file for file in files if "/" not in file or only])
    names = names or _names_of(root, files)
    if not names:
        raise DataError(
            f"{root}: nothing names the classes of its YOLO labels: put data.yaml (`names: [cat, dog]`) there"
        )
    if len(set(names.values())) < len(names):
        twice = max(names.values(), key=list(names.values()).count)
        raise DataError(f"{root}: more than one class is called {twice!r}; make them differ")
    return dict(sorted(names.items()))


def _names_of(root: Path, files: list[str]) -> dict[int, str]:
    """Merge the class names of files. Raises DataError for two that disagree, naming both."""
    names: dict[int, str] = {}
    origin: dict[int, Path] = {}
    for file in (root / file for file in files):
        if file.suffix in YAML:
            read = _yaml_names(file)
        else:
            read = dict(enumerate(line.strip() for line in read_text(file).splitlines() if line.strip()))
        for number, name in read.items():
            if names.setdefault(number, name) != name:
                raise DataError(
                    f"{file}: calls class {number} {name!r}, but {origin[number]} calls it {names[number]!r}; "
                    "choose one with `format='YoloFormat'` and `format.names='FILE'`, if its numbers are those of "
                    "all labels"
                )
            origin.setdefault(number, file)
    return names


def _yaml_names(file: Path) -> dict[int, str]:
    """Read the names in a YAML file: a list, or by number. Raises DataError."""
    content = read_settings(file)
    names = content.get("names")
    if names is None:
        return {}
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    valid = isinstance(names, dict) and all(
        number.isascii() and number.isdigit() and len(number) < 10 and isinstance(name, str) and name.strip()
        for number, name in names.items()
    )
    if not valid:
        raise DataError(f"{file}: names must be a list of the names of the classes, or names by number")
    if (count := content.get("nc", "")) and count != str(len(names)):
        raise DataError(f"{file}: nc is {count}, but names has {len(names)}; correct one of them")
    return {int(number): name for number, name in names.items()}
