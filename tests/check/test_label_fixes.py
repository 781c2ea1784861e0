"""Corrections ticked on the page of a report, written by ``detseg check --fix``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.check.label_fixes import apply_label_fixes
from detseg.check.repair import repair
from detseg.errors import ConfigError
from tests.check.test_checking import coco, look, write


def save(path: Path, *entries: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"root": "anywhere", "label_errors": entries}))
    return path


def test_every_kind_is_corrected(tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    write(root, coco(root))
    before = look(root).splits["all"]
    names = [str(before.files[image]) for image in np.repeat(np.arange(len(before)), np.diff(before.offsets))]
    first, second, third = (
        {"file": names[row], "annotation": int(before.ids[row]), "box": before.boxes[row].tolist()} for row in range(3)
    )
    other = before.classes[1 - before.labels[0]]
    file = save(
        tmp_path / "fixes.json",
        first | {"kind": "swapped", "label": before.classes[before.labels[0]], "suggested label": other},
        second | {"kind": "spurious", "label": "dog"},
        third | {"kind": "localization error", "suggested box": [1, 2, 11, 22]},
        {"kind": "missing", "file": names[0], "suggested label": "cat", "suggested box": [3, 4, 30, 40]},
    )
    result, changes = apply_label_fixes(look(root), file)
    assert len(changes) == 4
    written = repair(result, out, lambda: None, changes)
    assert written[:4] == changes
    after = look(out).splits["all"]
    assert len(after.labels) == len(before.labels)  # one less, one more
    boxes = after.boxes.tolist()
    expected = [*before.boxes[[0, *range(3, len(before.labels))]].tolist(), [1, 2, 11, 22], [3, 4, 30, 40]]
    assert sorted(boxes) == sorted(expected)
    added = boxes.index([3, 4, 30, 40])
    assert after.classes[after.labels[added]] == "cat"
    assert str(after.files[np.searchsorted(after.offsets, added, side="right") - 1]) == names[0]
    assert sorted(after.classes[label] for label in after.labels[after.objects(0)]) == sorted([other, "cat"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file": "absent.png"}, "absent.png is no image of"),
        ({"box": [0, 0, 1, 1]}, "the labels have changed"),
        ({"kind": "odd"}, "'odd' of .* is not a kind of label error"),
        ({"suggested label": "cow"}, "'cow', for .*, is not a class"),
    ],
)
def test_an_entry_that_does_not_fit_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    root = tmp_path / "data"
    write(root, coco(root))
    table = look(root).splits["all"]
    image = int(np.flatnonzero(np.diff(table.offsets))[0])
    entry = {
        "kind": "swapped",
        "file": str(table.files[image]),
        "annotation": int(table.ids[0]),
        "suggested label": "cat",
    }
    with pytest.raises(ConfigError, match=message):
        apply_label_fixes(look(root), save(tmp_path / "fixes.json", entry | {"box": table.boxes[0].tolist()} | change))


def test_of_two_images_of_one_name_that_of_the_report_is_corrected(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write(root, coco(root))
    result = look(root)
    table = result.splits["all"]
    both = {"train": replace(table, root=tmp_path / "elsewhere"), "val": table}
    entry = {"kind": "missing", "file": str(table.files[0]), "suggested label": "cat", "suggested box": [3, 4, 30, 40]}
    file = tmp_path / "fixes.json"
    file.write_text(json.dumps({"root": str(table.root), "label_errors": [entry]}))
    corrected = apply_label_fixes(replace(result, splits=both), file)[0].splits
    assert [len(corrected[split].labels) - len(table.labels) for split in both] == [0, 1]
    with pytest.raises(ConfigError, match="is in several splits, none of them in the folder of the report"):
        apply_label_fixes(replace(result, splits=both), save(file, entry))
