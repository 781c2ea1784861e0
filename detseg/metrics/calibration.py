"""Calibration of scores: detection expected calibration error and temperature scaling."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from detseg.metrics.matching import Floats

BINS = 10
_SMALLEST = 1e-6  # score; its logit is finite


class Calibration(NamedTuple):
    """Detections by score in bins of equal width: NaN where a bin has none."""

    counts: NDArray[np.int64]  # (BINS,)
    confidence: Floats  # (BINS,) mean score
    precision: Floats  # (BINS,)
    d_ece: float  # Küppers et al. 2020 (arXiv:2004.13546), equation 5, of the scores alone
    overconfidence: float  # mean score less precision
    temperature: float  # 1 for calibrated scores, above 1 for scores too far from .5
    d_ece_scaled: float  # after ``temperature``


def calibrate(scores: Floats, tp: NDArray[np.bool_]) -> Calibration:
    """Compare the scores (n,) of detections with the share of true positives among them, at one IoU.

    The temperature T minimises the negative log-likelihood of sigmoid(logit(score) / T) (Guo et al. 2017,
    arXiv:1706.04599, section 4.2).
    """
    nan = float("nan")
    if not len(scores):
        return Calibration(np.zeros(BINS, np.int64), np.full(BINS, nan), np.full(BINS, nan), nan, nan, nan, nan)
    clipped = scores.clip(_SMALLEST, 1 - _SMALLEST)
    logits = np.log(clipped) - np.log1p(-clipped)

    def loss(log_temperature: float) -> float:
        scaled = logits * np.exp(-log_temperature)
        return float(np.logaddexp(0, np.where(tp, -scaled, scaled)).mean())

    temperature = float(np.exp(minimize_scalar(loss, bounds=(-4, 4), method="bounded").x))
    scaled = 1 / (1 + np.exp(-logits / temperature))
    overconfidence = float(scores.mean() - tp.mean())
    return Calibration(*_bins(scores, tp), overconfidence, temperature, _bins(scaled, tp)[-1])


def _bins(scores: Floats, tp: NDArray[np.bool_]) -> tuple[NDArray[np.int64], Floats, Floats, float]:
    """Count, mean score and precision of each bin, and the mean of their absolute differences over the detections."""
    index = np.minimum((scores * BINS).astype(int), BINS - 1)
    counts = np.bincount(index, minlength=BINS)
    many = np.where(counts > 0, counts, np.nan)
    confidence, precision = (np.bincount(index, weights=values, minlength=BINS) / many for values in (scores, tp))
    error = float(np.nansum(counts * np.abs(precision - confidence)) / len(scores))
    return counts, confidence, precision, error
