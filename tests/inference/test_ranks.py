"""Processes that divide the images of a prediction."""

from __future__ import annotations

import pytest

from detseg.errors import DetsegError
from detseg.inference.ranks import launch


def test_a_process_that_ends_early_is_not_waited_for() -> None:
    with launch(["no-command"], 3) as ranks:
        assert (ranks.rank, ranks.world_size) == (0, 3)
        with pytest.raises(DetsegError, match="another process of this prediction has ended"):
            ranks.wait()
