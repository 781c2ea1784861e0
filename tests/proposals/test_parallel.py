from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detseg.errors import DataError
from detseg.proposals.grid import grid
from detseg.proposals.parallel import compute_proposals
from tests.data import made


def test_processes_change_nothing(tmp_path: Path) -> None:
    images = [(made.image(tmp_path / f"{n}.png", 20 + n, 30, seed=n), (20 + n, 30)) for n in range(6)]
    alone, shared = (list(compute_proposals(grid, images, jobs)) for jobs in (1, 2))
    assert len(alone) == len(shared) == 6
    for (boxes, seconds), (others, _), (path, size) in zip(alone, shared, images, strict=True):
        assert np.array_equal(boxes, others)
        assert boxes[:, 3].max() == size[0], path
        assert seconds >= 0


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_broken_image_is_named(tmp_path: Path, jobs: int) -> None:
    images = [(made.image(tmp_path / "0.png", 20, 30), (20, 30)), (tmp_path / "none.png", (20, 30))]
    proposals = compute_proposals(grid, images, jobs)
    next(proposals)
    with pytest.raises(DataError, match=r"none\.png: cannot read this image"):
        next(proposals)
    wrong = [(tmp_path / "0.png", (21, 30))]
    with pytest.raises(DataError, match="its annotation says 30x21"):
        list(compute_proposals(grid, wrong, jobs))
