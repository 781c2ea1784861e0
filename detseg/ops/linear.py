"""Linear classifiers and regressors that are fitted to all of the data at once."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

ROWS = 4096  # that are made double precision at once


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


def ridge(parts: Iterable[tuple[Tensor, Tensor]], strength: float) -> tuple[Tensor, Tensor]:
    """Ridge regression: minimise (sum of squared errors) + strength * |w|^2, the bias being free.

    ``parts`` are features (n, D) and targets (n, T), at least one pair; about max(D, ``ROWS``) rows are kept at once.
    Returns weights (T, D) and biases (T,), float32.
    """
    held: list[Tensor] = []
    products: Tensor | None = None  # of all columns with each other: a one, the features, the targets
    for features, targets in parts:
        width = features.shape[1]
        if sum(map(len, held)) >= max(width, ROWS):
            products, held = _add_products(products, torch.cat(held)), []
        held.append(torch.cat([features.new_ones(len(features), 1), features, targets], dim=1))
    rows = torch.cat(held)
    if products is None and len(rows) < width:
        return _ridge_of_few(rows.double(), width, strength)
    products = _add_products(products, rows)
    mean = products[0] / products[0, 0]
    products.addr_(products[0].clone(), mean, alpha=-1)
    x, y = slice(1, width + 1), slice(width + 1, None)
    weights = _solve(products[x, x], products[x, y], strength)
    return weights.T.float(), (mean[y] - mean[x] @ weights).float()


def _add_products(products: Tensor | None, rows: Tensor) -> Tensor:
    if products is None:
        products = rows.new_zeros(2 * rows.shape[1:], dtype=torch.float64)
    for part in (each.double() for each in torch.split(rows, ROWS)):
        products.addmm_(part.T, part)
    return products


def _ridge_of_few(rows: Tensor, width: int, strength: float) -> tuple[Tensor, Tensor]:
    """``ridge`` with as many unknowns as there are rows: w = x^T (x x^T + strength)^-1 y."""
    mean = rows.mean(dim=0)
    x, y = (rows - mean)[:, 1:].tensor_split([width], dim=1)
    weights = x.T @ _solve(x @ x.T, y, strength)
    return weights.T.float(), (mean[width + 1 :] - mean[1 : width + 1] @ weights).float()


def _solve(gram: Tensor, right: Tensor, strength: float) -> Tensor:
    gram.diagonal().add_(strength)
    return torch.cholesky_solve(right, torch.linalg.cholesky(gram))
