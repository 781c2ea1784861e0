"""The check of a GPU, on the CPU: every part runs, and none takes the others with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

import gpu_check  # noqa: E402
from gpu_check import PARTS, Report, Settings  # noqa: E402

# Runs gpu_check, whose forks could not use the GPU if anything imported before them had touched it.
WITHOUT_GPU = """
from contextlib import ExitStack
from unittest import mock
import torch, gpu_check

def preload(original=gpu_check.preload):
    with ExitStack() as stack:
        for owner, name in (torch.cuda, "_lazy_init"), (torch._C, "_cuda_init"), (torch._C, "_cuda_getDeviceCount"):
            stack.enter_context(mock.patch.object(owner, name, side_effect=AssertionError("a GPU"), create=True))
        original()

gpu_check.preload = preload
gpu_check.main()
"""


def test_parts_run_on_the_cpu(tmp_path: Path) -> None:
    """One of those that the benchmark measures, and all others; what they share is imported without the GPU."""
    parts = [name for name in PARTS if name not in ("train_2", "infer")]
    command = [sys.executable, "-c", WITHOUT_GPU, "--dry", "--out", str(tmp_path), "--only", *parts]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TOOLS.parent), str(TOOLS)])}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    results = {line["part"]: line for line in map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())}
    logs = "".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert result.returncode == 0, result.stdout + result.stderr + logs
    assert list(results) == parts
    left_out = {name for name, line in results.items() if line["status"] == "left out"}
    assert left_out == {name for name in PARTS if "compiled" in name or "12" in name}
    assert results["tests"]["skipped"] > 0
    assert 0 <= results["training"]["AP"] <= 1
    assert results["operations"]["nms"]["detseg"]["ms"] > 0
    assert 0 <= results["profile"]["faster_rcnn_12"]["gaps"] < 1
    assert len(results["profile"]["faster_rcnn_12"]["top"]) == 30
    table = result.stdout[result.stdout.index("part ") :]
    assert [line.split()[0] for line in table.splitlines()[1 : len(parts) + 1]] == parts


def crash(settings: Settings, report: Report) -> None:
    report(reached=1)
    os.kill(os.getpid(), signal.SIGKILL)


def hang(settings: Settings, report: Report) -> None:
    report(reached=1)
    time.sleep(600)


def lack(settings: Settings, report: Report) -> None:
    import no_such_package  # noqa: F401


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (crash, {"status": "failed", "reason": "ended with code -9", "reached": 1}),
        (hang, {"status": "failed", "reason": "stopped after 0.5 s", "reached": 1}),
        (lack, {"status": "left out", "reason": "No module named 'no_such_package'"}),
    ],
)
def test_a_part_that_ends_badly_is_reported_with_its_values(
    part: Any, expected: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PARTS, "part", (0, part))
    result = gpu_check.run("part", Settings(tmp_path, dry=True), 0.5 if part is hang else 60)
    assert {name: value for name, value in result.items() if name != "seconds"} == {"part": "part", **expected}
    assert json.loads((tmp_path / "results.jsonl").read_text()) == result
    assert gpu_check.summary(result).startswith(expected["reason"])


def test_time_in_which_kernels_overlap_counts_once() -> None:
    assert gpu_check.busy([(5, 6), (0, 2), (1, 3), (1.5, 2), (8, 9)]) == 5


def test_parts_that_compile_have_the_time_that_the_others_leave() -> None:
    names = list(PARTS)
    rest = names[names.index("mask_train_12_compiled") :]
    others = sum(PARTS[name][0] for name in rest[1:])
    assert gpu_check.time_limit(rest, others + 500) == PARTS[rest[0]][0]
    assert gpu_check.time_limit(rest, others + 50) == 50
    assert sum(limit for name, (limit, _) in PARTS.items() if "compiled" not in name) < gpu_check.BUDGET - 120
