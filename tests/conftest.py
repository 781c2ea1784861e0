"""Fixtures that tests of several parts share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that need a GPU where there is none."""
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("there is no GPU here")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest of the tests that stand alone, for which all would wait at the end.

    What the compiler of torch does is not traced for coverage: it is all Python, and would take several times as long.
    """
    items.sort(key=lambda item: item.path.parent.name != "tools")
    for item in items:
        if "compile" in item.name:
            item.add_marker("no_cover")


@pytest.fixture(autouse=True)
def forget_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Forget the modules that a test wrote and imported, so that the next test may write others of the same name."""
    before = set(sys.modules)
    yield
    folder = str(tmp_path_factory.getbasetemp())
    for name in sys.modules.keys() - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(folder):
            del sys.modules[name]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Small sets of real photographs beside the project; tests that need them skip where they are absent."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real photographs in ../shared/data")
    return folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Path, dict[str, Any]]]:
    """Models of ``tests.export.models`` by name with their ONNX file and report, exported once for all processes."""
    from detseg.export.delivery import REPORT, export
    from tests.export.models import IMAGES, SIZES, make

    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder

    def get(name: str) -> tuple[Any, Path, dict[str, Any]]:
        model, path = make(name), shared / f"{name}.onnx"
        report = path.with_name(path.name + REPORT)
        with FileLock(shared / f"{name}.lock"):
            if not report.exists():
                export(model, path, "onnx", SIZES.get(name), count=IMAGES)
        return model, path, json.loads(report.read_text())

    return get
