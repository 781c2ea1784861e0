"""Ties: choices of a detector that the rounding of its arithmetic decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from detseg.export.matching import Arrays, Match, match_detections

ROUNDING = (1e-6, 1e-5)  # relative, in turns; of scores before they are ranked, and of the sizes that choose a level
THRESHOLD = 1e-4  # of NMS: the IoU of narrow boxes is less exact
ATTEMPTS = 24  # one in two gives the other order of two equal scores


class OtherRounding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Compute as with other rounding: change the values that choices depend on at random, by no more than rounding."""

    def __init__(self, seed: int, rounding: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generator, self.rounding = torch.Generator().manual_seed(seed), rounding

    def __torch_dispatch__(
        self, function: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in (torch.ops.aten.topk.default, torch.ops.aten.log2.default):
            args = (self._round(args[0]), *args[1:])
        elif function is torch.ops.detseg.nms.default:
            boxes, scores, groups, valid, threshold, limit = args
            args = boxes, self._round(scores), groups, valid, threshold + THRESHOLD * float(self._draw(())), limit
        return function(*args, **(kwargs or {}))

    def _draw(self, shape: Iterable[int]) -> Tensor:
        """Draw numbers between -1 and 1."""
        return 2 * torch.rand(tuple(shape), generator=self.generator) - 1

    def _round(self, values: Tensor) -> Tensor:
        return values + self.rounding * values.abs().clamp(min=1) * self._draw(values.shape)


def is_tie(match: Match, expected: Arrays, actual: Arrays, score: float, compute: Callable[[], Arrays]) -> bool:
    """Tell whether rounding explains everything in which two lists of detections differ.

    ``compute`` gives the list of the checkpoint. Each detection that is missing must be missing, and each that is extra
    must appear, in one of ``ATTEMPTS`` lists that it gives with other rounding. Scores that match differ by ``score``.
    """
    missing, extra = match.missing, match.extra
    for seed in range(ATTEMPTS):
        with OtherRounding(seed, ROUNDING[seed % len(ROUNDING)]):
            other = compute()
        missing = np.setdiff1d(missing, match_detections(expected, other, score).missing)
        extra = np.intersect1d(extra, match_detections(other, actual, score).extra)
        if not len(missing) and not len(extra):
            return True
    return False
