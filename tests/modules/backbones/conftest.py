"""Backbones are made with quick random weights."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def quick_weights(quick_initialization: None) -> None:
    pass
