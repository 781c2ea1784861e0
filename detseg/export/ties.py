"""Ties: choices of a detector that the rounding of its arithmetic decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from detseg.export.matching import BOX, SCORE, Arrays, Match, match_detections

SHARES = (0.01, 0.1, 1.0)  # in turns, of the differences that a detection may have
ATTEMPTS = 24  # one in two gives the other order of two equal scores


class OtherRounding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Compute as with other rounding: change the values that choices depend on at random.

    These are the scores that are ranked, the boxes of NMS, and the sizes that choose a level; they change by up to
    ``share`` of ``SCORE`` and ``BOX``.
    """

    def __init__(self, seed: int, share: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generator, self.share = torch.Generator().manual_seed(seed), share

    def __torch_dispatch__(
        self, function: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in (torch.ops.aten.topk.default, torch.ops.aten.log2.default):
            args = (self._round(args[0]), *args[1:])
        elif function is torch.ops.detseg.nms.default:
            boxes, scores, *others = args
            args = boxes + self.share * BOX * self._draw(boxes.shape), self._round(scores), *others
        return function(*args, **(kwargs or {}))

    def _draw(self, shape: Iterable[int]) -> Tensor:
        """Draw numbers between -1 and 1."""
        return 2 * torch.rand(tuple(shape), generator=self.generator) - 1

    def _round(self, values: Tensor) -> Tensor:
        return values + self.share * SCORE * values.abs().clamp(min=1) * self._draw(values.shape)


def is_tie(match: Match, expected: Arrays, actual: Arrays, score: float, compute: Callable[[], Arrays]) -> bool:
    """Tell whether rounding explains everything in which two lists of detections differ.

    ``compute`` gives the list of the checkpoint. Each detection that is missing must be missing, and each that is extra
    must appear, in one of ``ATTEMPTS`` lists that it gives with other rounding. Scores that match differ by ``score``.
    """
    missing, extra = match.missing, match.extra
    for seed in range(ATTEMPTS):
        with OtherRounding(seed, SHARES[seed % len(SHARES)]):
            other = compute()
        missing = np.setdiff1d(missing, match_detections(expected, other, score).missing)
        extra = np.intersect1d(extra, match_detections(other, actual, score).extra)
        if not len(missing) and not len(extra):
            return True
    return False
