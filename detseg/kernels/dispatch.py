"""The switch between plain operations and their faster drop-ins, and NMS, which two modules share."""

from __future__ import annotations

from importlib.util import find_spec

from torch import Tensor

from detseg.ops import boxes as box_ops

HAS_TRITON = find_spec("triton") is not None  # comes with PyTorch for GPUs on Linux

_fast = True


class use:
    """Choose the fast kernels or the plain operations, for the whole process and from now on.

    As a context manager, restores the former choice at its end: ``with kernels.use(fast=False): ...``.
    """

    def __init__(self, fast: bool) -> None:
        global _fast
        self._former = _fast
        _fast = fast

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        global _fast
        _fast = self._former


def is_fast() -> bool:
    """Return true while the fast kernels are in use."""
    return _fast


def nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, limit: int
) -> tuple[Tensor, Tensor]:
    """Compute ``ops.boxes.nms``, fast as one Triton kernel on a GPU."""
    if _fast and boxes.is_cuda and HAS_TRITON:
        from detseg.kernels import triton_nms

        return triton_nms.nms(boxes, scores, groups, valid, threshold, limit)  # type: ignore[no-any-return]
    return box_ops.nms(boxes, scores, groups, valid, threshold, limit)  # type: ignore[no-any-return]
