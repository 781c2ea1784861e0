"""Fixtures that tests of several parts share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Small sets of real photographs beside the project; tests that need them skip where they are absent."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real photographs in ../shared/data")
    return folder
