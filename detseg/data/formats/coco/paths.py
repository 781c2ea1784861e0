"""Images at the paths that annotation files give."""

from __future__ import annotations

import os
from pathlib import Path

from detseg.data.formats.layout import Tree
from detseg.errors import DataError
from detseg.folders import is_path_traversal


def resolve_paths(source: Path, root: Path, names: list[str]) -> list[str]:
    """Find the images that the file ``source`` names below ``root``, as ``lookup_paths`` does.

    Raises DataError for a name that leads out of ``root`` and is not found.
    """
    paths = lookup_paths(source, root, names)
    for path in paths:
        if is_path_traversal(path):
            raise DataError(path_traversal_message(source, root, path))
    return paths


def path_traversal_message(source: Path, root: Path, name: str) -> str:
    """Describe the error of a name that leads out of ``root`` and is not found."""
    return (
        f"{source}: file_name {name!r} leads out of the folder of the images, {root}, and there is no image of "
        "this name in it; put the image there, or correct the name"
    )


def lookup_paths(source: Path, root: Path, names: list[str]) -> list[str]:
    """Find images at the paths that the file ``source`` gives, else by name anywhere below ``root``.

    A name that is not found stays as it is.
    """
    there: set[str] = set()
    for folder in {name.rpartition("/")[0] for name in names}:
        if not is_path_traversal(folder):
            there.update(map(os.path.join(folder, "").__add__, _listed(root / folder)))
    if there.issuperset(names):
        return names
    tree = Tree(root)
    label = source.relative_to(root).as_posix() if source.is_relative_to(root) else source.name
    return [name if name in there else tree.image_of(label, name.replace("\\", "/")) or name for name in names]


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (OSError, ValueError):
        return []
