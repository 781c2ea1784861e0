"""Choices that depend on the CPU: the vendor, and its speed in bfloat16."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def autocast_slows(x: Tensor) -> bool:
    """Return true if autocast would multiply ``x`` in bfloat16 on a CPU that is faster in float32.

    False for anything that is compiled, exported or traced: it may run on another CPU.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    return (
        x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and x.dtype in (torch.bfloat16, torch.float32)
        and _slow_in_bfloat16()
    )


@cache
def _slow_in_bfloat16() -> bool:
    """Return true if bfloat16 matrix products are slower than float32 ones on this CPU, from measurements.

    Intel gains by AMX only, not by the AVX-512 instructions; AMD's AVX-512 instructions double the rate. x86 CPUs
    without either convert to float32 and back. Other architectures were not measured and count as fast.
    """
    capabilities = torch.cpu.get_capabilities()
    fast = capabilities.get("amx_bf16") or (capabilities.get("avx512_bf16") and is_amd())
    return capabilities.get("architecture") == "x86_64" and not fast


def is_amd() -> bool:
    """Return true if the CPU is one of AMD's."""
    return str(torch.cpu.get_capabilities().get("cpu_name")).startswith("AMD")
