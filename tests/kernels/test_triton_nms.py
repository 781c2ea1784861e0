"""The Triton kernels against the plain operator; a GPU is not needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def on_triton(code: str, cache: Path, **environment: str) -> None:
    """Run code in a new process: Triton decides at the definition of a kernel if it is interpreted."""
    pytest.importorskip("triton")
    own = {"PYTHONPATH": str(Path(__file__).parents[2]), "TRITON_CACHE_DIR": str(cache)}
    variables = {**os.environ, **environment, **own}
    result = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_agrees_with_the_plain_operator(tmp_path: Path) -> None:
    """Interpreted: random boxes and tied ones, padding, an image without a valid box, one box, full tiles, none."""
    code = """
import torch
from detseg.kernels import triton_nms
from detseg.ops import boxes as plain
from tests.ops.test_nms import candidates

def agree(boxes, scores, groups, valid, threshold, limit):
    expected = plain.nms(boxes, scores, groups, valid, threshold, limit)
    result = triton_nms.nms(boxes, scores, groups, valid, threshold, limit)
    assert torch.equal(result[0], expected[0]) and torch.equal(result[1], expected[1]), (boxes.shape, threshold, limit)
    return expected[1]

boxes, scores, groups, valid = candidates()
for threshold, limit in ((0.1, 40),):
    assert 0 < agree(boxes, scores, groups, valid, threshold, limit).sum() < 3 * limit
boxes, scores = boxes.round(), (scores * 4).round() / 4
boxes[:, 20:] = boxes[:, :20]
for threshold, limit in ((0.5, 5),):
    assert 0 < agree(boxes, scores, groups, valid, threshold, limit).sum() < 3 * limit
for count in (1, 64, 65):
    agree(*candidates(3, count), 0.5, 3)
triton_nms.CHUNK = triton_nms.tl.constexpr(128)  # three chunks, the last one not full
boxes, scores, groups, valid = candidates(1, 300)
assert not valid.any()
assert agree(boxes * 2, scores, groups, scores > 0.1, 0.3, 300).sum() > 100
nothing = torch.zeros(2, 0)
for limit in (0, 3):
    assert not agree(torch.zeros(2, 0, 4), nothing, nothing.long(), nothing.bool(), 0.5, limit).any()
"""
    on_triton(code, tmp_path, TRITON_INTERPRET="1")


def test_compiles_without_spilling_registers(tmp_path: Path) -> None:
    """For an H100 or H200, present or not; Triton compiles an argument of 1 as a constant."""
    code = """
import subprocess
import tempfile
import triton
from triton.backends.compiler import GPUTarget
from detseg.kernels.triton_nms import WARPS, _overlap_kernel, _select_kernel

overlap = dict(boxes="*fp32", groups="*i64", overlaps="*i64", threshold="fp32", count="i32")
select = dict(overlaps="*i64", valid="*i8", order="*i64", indices="*i64", kept="*i8", count="i32", limit="i32")
for kernel, signature, constants in (
    (_overlap_kernel, overlap, {}),
    (_select_kernel, select, {}),
    (_select_kernel, select | {"count": "constexpr", "limit": "constexpr"}, {"count": 1, "limit": 1}),
):
    source = triton.compiler.ASTSource(kernel, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": WARPS})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "REG:" in usage and " STACK:0 " in usage and " LOCAL:0 " in usage, usage
"""
    on_triton(code, tmp_path)
