"""Linear classifiers and regressors that are fitted to all of the data at once."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 4096  # of a matrix that are made double precision at once


def svm(features: Tensor, positive: Tensor, c: float, weight: float, bias: float) -> tuple[Tensor, Tensor]:
    """A linear support vector machine: minimise |w|^2 / 2 + c * (sum of hinge losses).

    ``features`` (N, D), ``positive`` (N,) bool; the losses of positives count ``weight`` times. The bias is the weight
    of a feature that is ``bias`` everywhere, so that the larger this is, the less it is held down (as in R-CNN's
    implementation). Returns weights (D,) and a bias (), float32; the same for the same data.
    """
    from sklearn.svm import LinearSVC  # takes seconds to import

    machine = LinearSVC(
        C=c,
        loss="hinge",
        class_weight={1: weight},
        intercept_scaling=bias,
        dual=True,
        tol=1e-3,
        max_iter=10_000,
        random_state=0,
    )
    machine.fit(features.double().cpu().numpy(), positive.long().cpu().numpy())
    return torch.from_numpy(machine.coef_[0]).float(), torch.tensor(float(machine.intercept_[0]))


def ridge(features: Tensor, targets: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Ridge regression: minimise (sum of squared errors) + strength * |w|^2, the bias being free.

    ``features`` (N, D), ``targets`` (N, T). Returns weights (T, D) and biases (T,), float32.
    """
    mean, middle = features.mean(dim=0, dtype=torch.float64), targets.mean(dim=0, dtype=torch.float64)
    x, y = features, targets.double() - middle
    if len(x) < x.shape[1]:  # as many unknowns as there are rows: w = x^T (x x^T + strength)^-1 y
        x = x.double() - mean
        weights = x.T @ _solve(x @ x.T, y, strength)
    else:
        gram = x.new_zeros(2 * x.shape[1:], dtype=torch.float64)
        moment = y.new_zeros(x.shape[1], y.shape[1])
        for part, own in zip(torch.split(x, ROWS), torch.split(y, ROWS), strict=True):
            centred = part.double() - mean
            gram.addmm_(centred.T, centred)
            moment.addmm_(centred.T, own)
        weights = _solve(gram, moment, strength)
    return weights.T.float(), (middle - mean @ weights).float()


def _solve(gram: Tensor, right: Tensor, strength: float) -> Tensor:
    gram.diagonal().add_(strength)
    return torch.cholesky_solve(right, torch.linalg.cholesky(gram))
