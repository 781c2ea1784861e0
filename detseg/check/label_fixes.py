"""Corrections of labels that a person has confirmed on the page of a report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from detseg.check.checking import CheckResult
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.masks import NONE, concat_masks, join_masks
from detseg.errors import ConfigError


def apply_label_fixes(result: CheckResult, file: Path) -> tuple[CheckResult, list[str]]:
    """Correct the labels that ``file``, from the page of a report, lists; return the result and the changes.

    A swapped class and a badly localised box take the suggested ones, a spurious object is left out, and a missing one
    is added, without a mask. Of images of one name in several splits, those in the folder of the report are meant.
    Raises ConfigError, naming the entry, for one that does not fit the data set.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        root, entries = content["root"], content["label_errors"]
        by_name = {entry["file"]: [one for one in entries if one["file"] == entry["file"]] for entry in entries}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file}: is not a list saved from an evaluation report: {error}") from error
    splits, changes = dict(result.splits), []
    owners = Counter(str(name) for table in result.splits.values() for name in table.files)
    for split, table in result.splits.items():
        names = {str(name): row for row, name in enumerate(table.files)}
        of_split = [name for name in names.keys() & by_name.keys() if owners[name] == 1 or str(table.root) == root]
        if isinstance(table, DetectionAnnotations) and of_split:
            chosen = [(names[name], entry) for name in sorted(of_split) for entry in by_name.pop(name)]
            try:
                splits[split] = _corrected(table, chosen)
            except (KeyError, TypeError, ValueError) as error:
                raise ConfigError(f"{file}: {error.args[0]}") from error
            changes += [_describe(table, image, entry) for image, entry in chosen]
    if by_name:
        name = next(iter(by_name))
        problem = "is in several splits, none of them in the folder of the report," if owners[name] else "is no image"
        raise ConfigError(f"{file}: {name} {problem} of {result.root}")
    return replace(result, splits=splits), changes


def _corrected(table: DetectionAnnotations, entries: Sequence[tuple[int, Mapping[str, Any]]]) -> DetectionAnnotations:
    boxes, labels, areas = table.boxes.copy(), table.labels.copy(), table.areas.copy()
    kept, added = np.ones(len(labels), dtype=bool), []
    for image, entry in entries:
        kind = entry["kind"]
        if kind == "missing":
            added.append((image, _box(entry), _label(table, entry)))
            continue
        row = _row(table, image, entry)
        if kind == "swapped":
            labels[row] = _label(table, entry)
        elif kind == "localization error":
            boxes[row] = _box(entry)
            if table.masks is None:
                areas[row] = (boxes[row, 2:] - boxes[row, :2]).prod()
        elif kind == "spurious":
            kept[row] = False
        else:
            raise ValueError(f"{kind!r} of {entry['file']} is not a kind of label error")
    corrected = replace(table, boxes=boxes, labels=labels, areas=areas).where(kept)
    return _with_objects(corrected, added) if added else corrected


def _with_objects(table: DetectionAnnotations, added: Sequence[tuple[int, list[float], int]]) -> DetectionAnnotations:
    """Add objects: the row of their image, box and label."""
    images, boxes, labels = (np.array(column) for column in zip(*added, strict=True))
    sides = boxes[:, 2:] - boxes[:, :2]
    flags, first = np.zeros(len(added), dtype=bool), int(table.ids.max(initial=0)) + 1
    columns = {"boxes": boxes, "labels": labels, "areas": sides.prod(axis=1), "crowd": flags, "difficult": flags}
    columns["ids"] = np.arange(first, first + len(added))
    of_objects = np.concatenate([np.repeat(np.arange(len(table)), np.diff(table.offsets)), images])
    masks = None
    if table.masks is not None:
        masks = join_masks([table.masks, concat_masks([(NONE, b"")] * len(added))])
    joined: dict[str, Any] = {name: np.concatenate([getattr(table, name), column]) for name, column in columns.items()}
    order = np.argsort(of_objects, kind="stable")
    return replace(
        table,
        offsets=np.searchsorted(of_objects[order], np.arange(len(table) + 1)),
        masks=None if masks is None else masks.take(order),
        **{name: column[order] for name, column in joined.items()},
    )


def _row(table: DetectionAnnotations, image: int, entry: Mapping[str, Any]) -> int:
    objects = table.objects(image)
    rows = objects.start + np.flatnonzero(table.ids[objects] == entry["annotation"])
    if len(rows) != 1 or np.abs(table.boxes[rows[0]] - entry["box"]).max() > 1:
        raise ValueError(
            f"annotation {entry['annotation']} of {entry['file']} is not the one of the report: the labels have "
            "changed; write a new report"
        )
    return int(rows[0])


def _label(table: DetectionAnnotations, entry: Mapping[str, Any]) -> int:
    if entry["suggested label"] not in table.classes:
        raise ValueError(f"{entry['suggested label']!r}, for {entry['file']}, is not a class of the data set")
    return table.classes.index(entry["suggested label"])


def _box(entry: Mapping[str, Any]) -> list[float]:
    x1, y1, x2, y2 = map(float, entry["suggested box"])
    if not (x1 < x2 and y1 < y2):
        raise ValueError(f"the suggested box of {entry['file']} has no area")
    return [x1, y1, x2, y2]


def _describe(table: DetectionAnnotations, image: int, entry: Mapping[str, Any]) -> str:
    what = f"annotation {entry['annotation']}" if "annotation" in entry else "an object"
    now = {
        "swapped": f"is {entry.get('suggested label')}, was {entry.get('label')}",
        "localization error": f"has the box {entry.get('suggested box')}, had {entry.get('box')}",
        "spurious": f"left out: {entry.get('label')}",
        "missing": f"added: {entry.get('suggested label')} {entry.get('suggested box')}",
    }
    return f"corrected: {table.path(image)} {what} {now[entry['kind']]}"
