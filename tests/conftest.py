"""Fixtures that tests of several parts share."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor

POOL = 999_983  # values; a prime, so that no two rows of a weight are the same values in the same order


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


def pytest_collection_finish() -> None:
    """Take the modules of torch out of the garbage collector, which would walk through them again and again."""
    gc.freeze()


@pytest.fixture(autouse=True)
def forget_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Forget the modules that a test wrote and imported, so that the next test may write others of the same name."""
    before = set(sys.modules)
    yield
    folder = str(tmp_path_factory.getbasetemp())
    for name in sys.modules.keys() - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(folder):
            del sys.modules[name]


@pytest.fixture(scope="module")
def quick_initialization() -> Iterator[None]:
    """Fill large tensors from a pool of random values, beginning at a random one, and meta tensors with none.

    Drawing each weight of a published network takes longer than most tests of it. So does batch norm on the meta
    device, a composition of many operators in Python, though it only keeps the shape.
    """
    generator = torch.Generator().manual_seed(0)
    pools = {
        name: draw(POOL, generator=generator).repeat(2)
        for name, draw in (("normal_", torch.randn), ("uniform_", torch.rand))
    }

    def pooled(draw: Callable[..., Tensor], pool: Tensor, normal: bool) -> Callable[..., Tensor]:
        def fill(tensor: Tensor, *limits: float, generator: torch.Generator | None = None, **named: Any) -> Tensor:
            size = tensor.numel()
            if tensor.is_meta:
                return tensor
            if generator or named or size < 10_000 or tensor.device.type != "cpu" or not tensor.is_contiguous():
                return draw(tensor, *limits, generator=generator, **named)
            low, high = (*limits, *(0.0, 1.0)[len(limits) :])
            shift, scale = (low, high) if normal else (low, high - low)
            start, flat = int(torch.randint(POOL, ())), tensor.detach().view(-1)
            for part in flat.split(POOL):
                part.copy_(pool[start : start + len(part)]).mul_(scale).add_(shift)
            return tensor

        return fill

    @torch.no_grad()
    def trunc_normal_(
        tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, generator: Any = None
    ) -> Tensor:
        return tensor.normal_(mean, std, generator=generator).clamp_(a, b)

    def batch_norm(features: Tensor, mean: Tensor | None, *settings: Any, **named: Any) -> Tensor:
        if not features.is_meta:
            return normalize(features, mean, *settings, **named)
        assert mean is None or len(mean) == features.shape[1]
        return features

    normalize = F.batch_norm
    with pytest.MonkeyPatch.context() as patch:
        for name, pool in pools.items():
            patch.setattr(Tensor, name, pooled(getattr(Tensor, name), pool, name == "normal_"))
        patch.setattr(torch.nn.init, "trunc_normal_", trunc_normal_)
        patch.setattr(F, "batch_norm", batch_norm)
        yield


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
    from detseg.export.delivery import export, report_path
    from tests.export.models import IMAGES, SIZES, make

    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder

    def get(name: str) -> tuple[Any, Path, dict[str, Any]]:
        model, path = make(name), shared / f"{name}.onnx"
        report = report_path(path)
        with FileLock(shared / f"{name}.lock"):
            if not report.exists():
                export(model, path, "onnx", SIZES.get(name), count=IMAGES)
        return model, path, json.loads(report.read_text())

    return get
