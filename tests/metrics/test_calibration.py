"""Calibration, against loops over detections."""

from __future__ import annotations

import numpy as np
import pytest

from detseg.metrics.calibration import calibrate


def test_equals_a_loop() -> None:
    random = np.random.default_rng(0)
    scores = random.random(500)
    tp = random.random(500) < scores**2
    error = 0.0
    for low in range(10):
        inside = [i for i in range(500) if low / 10 <= scores[i] < (low + 1) / 10]
        precision = sum(tp[i] for i in inside) / len(inside)
        error += len(inside) / 500 * abs(precision - sum(scores[i] for i in inside) / len(inside))
    assert calibrate(scores, tp).d_ece == pytest.approx(error)


def test_the_temperature_of_made_scores_is_recovered() -> None:
    random = np.random.default_rng(1)
    logits = random.normal(0, 2, 40_000)
    tp = random.random(40_000) < 1 / (1 + np.exp(-logits))
    values = calibrate(1 / (1 + np.exp(-2.5 * logits)), tp)
    assert values.temperature == pytest.approx(2.5, rel=0.05)
    assert values.d_ece_scaled < 0.01 < 0.08 < values.d_ece
    assert np.isnan(calibrate(np.zeros(0), np.zeros(0, bool)).d_ece)


def test_low_scores_of_still_lower_precision_are_overconfident() -> None:
    tp = np.arange(1000) % 20 == 0
    values = calibrate(np.full(1000, 0.3), tp)
    assert values.overconfidence == pytest.approx(0.25)
    assert values.temperature < 1  # away from .5, to 0
