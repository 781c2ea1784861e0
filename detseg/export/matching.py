"""One-to-one comparison of two lists of detections of an image."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

BOX, SCORE = 1e-2, 1e-4  # pixels and probability by which two detections may differ

Arrays = dict[str, NDArray[Any]]
Rows = NDArray[np.int64]


class Match(NamedTuple):
    """Rows of detections that match, in pairs, and those of either list that do not."""

    expected: Rows
    actual: Rows
    missing: Rows
    extra: Rows

    @property
    def complete(self) -> bool:
        """All detections of both lists match."""
        return not len(self.missing) and not len(self.extra)

    def __str__(self) -> str:
        count = len(self.expected) + len(self.missing)
        return f"{len(self.missing)} of {count} detections missing, {len(self.extra)} too many"


def match_detections(expected: Arrays, actual: Arrays, score: float = SCORE) -> Match:
    """Match detections of the same label, corners within ``BOX`` and scores within ``score``, each with the nearest.

    If both lists are full, those whose score is within ``score`` of the last one count neither as missing nor as extra:
    they tie with those that were cut off.
    """
    count, other = int(expected["num_detections"]), int(actual["num_detections"])
    free = np.ones(other, dtype=bool)
    pairs, missing = [], []
    for row in range(count):
        box = np.abs(actual["boxes"][:other] - expected["boxes"][row]).max(axis=1)
        fits = free & (actual["labels"][:other] == expected["labels"][row]) & (box <= BOX)
        fits &= np.abs(actual["scores"][:other] - expected["scores"][row]) <= score
        if fits.any():
            nearest = int(np.where(fits, box, np.inf).argmin())
            free[nearest] = False
            pairs.append((row, nearest))
        else:
            missing.append(row)
    rows = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    absent, extra = np.array(missing, dtype=np.int64), np.flatnonzero(free)
    if count == other == len(actual["scores"]) > 0:
        last = min(actual["scores"][-1], expected["scores"][-1]) + score
        absent, extra = absent[expected["scores"][absent] > last], extra[actual["scores"][extra] > last]
    return Match(rows[0], rows[1], absent, extra)


def largest_difference(match: Match, expected: Arrays, actual: Arrays, name: str) -> float:
    """Return the largest difference of a value, ``boxes`` or ``scores``, of detections that match."""
    return float(np.abs(expected[name][match.expected] - actual[name][match.actual]).max(initial=0))


def disorder(outputs: Arrays) -> str:
    """Explain why outputs are no list of detections, best first, with empty slots behind it; empty if they are."""
    count, slots = int(outputs["num_detections"]), len(outputs["scores"])
    if not 0 <= count <= slots or outputs["scores"][count:].any() or outputs["boxes"][count:].any():
        return "the slots after the last detection are not empty"
    if not (np.diff(outputs["scores"][:count]) <= SCORE).all():
        return "the best detections do not come first"
    return ""
