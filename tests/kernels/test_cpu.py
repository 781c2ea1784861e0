from __future__ import annotations

import pytest
import torch

from detseg.kernels import cpu

INTEL, AMD = "Intel Xeon", "AMD EPYC 9B45"


@pytest.mark.parametrize(
    ("has", "slow"),
    [
        ({"architecture": "x86_64", "cpu_name": INTEL, "avx512_bf16": True, "amx_bf16": False}, True),
        ({"architecture": "x86_64", "cpu_name": INTEL, "avx512_bf16": True, "amx_bf16": True}, False),
        ({"architecture": "x86_64", "cpu_name": AMD, "avx512_bf16": True, "amx_bf16": False}, False),
        ({"architecture": "x86_64", "cpu_name": AMD, "avx512_bf16": False, "amx_bf16": False}, True),
        ({"architecture": "x86_64"}, True),
        ({"architecture": "aarch64", "bf16": True}, False),
        ({}, False),
    ],
)
def test_which_processors_are_slow_in_bfloat16(has, slow, monkeypatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    cpu._slow_in_bfloat16.cache_clear()
    try:
        assert cpu._slow_in_bfloat16() == slow
    finally:
        cpu._slow_in_bfloat16.cache_clear()


def test_single_precision_is_quicker_than_bfloat16_alone_under_autocast_alone(monkeypatch) -> None:
    monkeypatch.setattr(cpu, "_slow_in_bfloat16", lambda: True)
    x = torch.zeros(1)
    assert not cpu.autocast_slows(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert cpu.autocast_slows(x)
        assert cpu.autocast_slows(x.bfloat16())
        assert not cpu.autocast_slows(x.double())
        assert not cpu.autocast_slows(x.to("meta"))
    with torch.autocast("cpu", torch.float16):
        assert not cpu.autocast_slows(x)
