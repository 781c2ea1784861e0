"""The notebooks: stored without outputs, and their code runs from top to bottom at a small size."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def run(path: Path) -> dict[str, Any]:
    """Run the code of a notebook in one namespace, with few images and regions, and return that."""
    namespace: dict[str, Any] = {}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            code = re.sub("^IMAGES, EPOCHS = .*$", "IMAGES, EPOCHS = 8, 1", "".join(cell["source"]), flags=re.MULTILINE)
            exec(compile(code.replace("REGIONS = 200", "REGIONS = 20"), path.name, "exec"), namespace)
    return namespace


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_code_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("detseg.proposals.selective_search.LONG_EDGE", 96)  # fewer regions
    namespace = run(path)
    match path.stem:
        case "quick_start":
            assert set(namespace["result"].names) <= {"circle", "ring", "square", "star", "triangle"}
            assert 0 <= namespace["task"].metric_values["AP"] <= 1
        case "own_data":
            assert "box" in Path("repaired/changes.txt").read_text()
            assert set(namespace["result"].names) <= {"red", "blue"}
            assert 0 <= json.loads(Path("metrics.json").read_text())["AP"] <= 1
        case "history_of_detectors":
            ((_, total, positive, *_),) = namespace["count_matches"](namespace["levels"])
            height, width = (np.ceil(side / 16) for side in namespace["image"].shape[:2])
            assert total == 12 * height * width  # 4 sizes, 3 aspect ratios
            assert positive >= len(namespace["truth"])
            assert namespace["seconds"].keys() == {"R-CNN", "Fast R-CNN", "Faster R-CNN"}
        case other:
            pytest.fail(f"{other}: no expectation")
