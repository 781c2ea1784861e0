"""Devices that tests run on: the CPU, which proves the test itself, and a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


def to(value: Any, device: str) -> Any:
    """Move all tensors of lists, tuples and dictionaries."""
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf, value)


@contextmanager
def no_waits(device: str) -> Iterator[None]:
    """Raise where the host would wait for a GPU."""
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
