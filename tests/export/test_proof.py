"""Rules of the proof for scores at the limits of single precision."""

from __future__ import annotations

import numpy as np
import pytest

from detseg.export.matching import Arrays
from detseg.export.proof import Proof, Reference
from detseg.export.proof_images import ProofImage
from tests.export.models import make

IMAGE = ProofImage("image", np.zeros((96, 128, 3), np.uint8))
EXACT = np.array([0.9, 0.5, 0.3])

# Errors of the scores in single precision in PyTorch, and of the file's, against double precision, times 1e-5.
ERRORS = [
    (0, 9, "equal"),
    (8, -15, "rounded"),  # 23 apart, which is more than 10
    (4, 15, "rounded"),
    (1, 15, "refused"),  # 15 is more than 4 times 1
    (8, -35, "refused"),
    (20, 45, "refused"),  # errors beyond 10 are no rounding, and excuse no more
]


def verdict(name: str, single: Arrays, file: Arrays, double: Arrays, monkeypatch: pytest.MonkeyPatch) -> str:
    """Compare one image, for which PyTorch gives ``single`` or ``double`` in these precisions."""

    def compute(self: Reference, inputs: Arrays, exact: bool = False) -> Arrays:
        return {key: value[None] for key, value in (double if exact else single).items()}

    reference, proof = Reference(make(name)), Proof()
    monkeypatch.setattr(Reference, "__call__", compute)
    reference.compare(proof, IMAGE, {}, single, file)
    assert not proof.ties
    return "refused" if proof.failures else "rounded" if proof.rounded else "equal"


@pytest.mark.parametrize(("single", "file", "expected"), ERRORS)
def test_a_detector_may_differ_by_rounding(
    single: float, file: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = np.array([[0, 0, 20, 30], [40, 10, 90, 60], [70, 50, 120, 90]], dtype=np.float64)

    def detect(error: float) -> Arrays:
        scores = EXACT + 1e-5 * error * np.array([0.1, 1, 0.1])
        return {"boxes": boxes, "scores": scores, "labels": np.arange(3), "num_detections": np.array(3)}

    assert verdict("retinanet", detect(single), detect(file), detect(0), monkeypatch) == expected


@pytest.mark.parametrize(("single", "file", "expected"), ERRORS)
def test_a_classifier_may_differ_by_rounding(
    single: float, file: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = [{"scores": EXACT + np.array([0, 1e-5 * error, 0])} for error in (single, file, 0)]
    assert verdict("classifier", *scores, monkeypatch) == expected
