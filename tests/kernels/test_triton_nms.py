"""The Triton kernel against the plain operator; a GPU is not needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def on_triton(code: str, **environment: str) -> None:
    """Run code in a new process: Triton decides at the definition of a kernel if it is interpreted."""
    pytest.importorskip("triton")
    variables = {**os.environ, **environment, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_agrees_with_the_plain_operator() -> None:
    """Interpreted, on random boxes, on tied scores and equal boxes, and without a valid box."""
    code = """
import torch
from detseg.kernels import triton_nms
from detseg.ops import nms as plain
from tests.ops.test_nms import candidates

for tied in (False, True):
    boxes, scores, groups, valid = candidates()
    if tied:
        boxes, scores = boxes.round(), (scores * 4).round() / 4
        boxes[:, 20:] = boxes[:, :20]
    for threshold, limit in ((0.1, 40), (0.5, 5), (0.5, 40), (0.9, 60)):
        expected = plain.nms(boxes, scores, groups, valid, threshold, limit)
        found = triton_nms.nms(boxes, scores, groups, valid, threshold, limit)
        assert expected[1].sum() > 5 and not expected[1].all()
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
nothing = torch.zeros(2, 0)
indices, kept = triton_nms.nms(torch.zeros(2, 0, 4), nothing, nothing.long(), nothing.bool(), 0.5, 3)
assert indices.shape == kept.shape == (2, 3) and not kept.any()
"""
    on_triton(code, TRITON_INTERPRET="1")


def test_compiles() -> None:
    """For an H100, present or not."""
    code = """
import triton
from triton.backends.compiler import GPUTarget
from detseg.kernels.triton_nms import WARPS, _nms_kernel

names = dict(boxes="*fp32", scores="*fp32", groups="*i64", indices="*i64", kept="*i1", threshold="fp32")
source = triton.compiler.ASTSource(
    _nms_kernel, signature={**names, "count": "i32", "limit": "i32", "BLOCK": "constexpr"}, constexprs={(8,): 16384}
)
compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": WARPS})
assert compiled.asm["cubin"]
"""
    on_triton(code)
