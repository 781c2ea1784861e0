"""What a processor is quick at, where that decides how to compute."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def autocast_slows(x: Tensor) -> bool:
    """Whether autocast would have ``x`` multiplied in bfloat16 on a processor that is quicker in float32.

    What is compiled, exported or traced is left alone: it may run on another processor.
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
    """Intel's are quick in it by AMX alone: their AVX-512 instructions for it gained nothing where they were measured.

    AMD's doubled the rate. Processors without instructions for it convert to float32 and back, and others than x86 were
    not measured.
    """
    has = torch.cpu.get_capabilities()
    quick = has.get("amx_bf16") or (has.get("avx512_bf16") and is_amd())
    return has.get("architecture") == "x86_64" and not quick


def is_amd() -> bool:
    return str(torch.cpu.get_capabilities().get("cpu_name")).startswith("AMD")
