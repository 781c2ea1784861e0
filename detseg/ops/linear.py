"""Linear classifiers and regressors fitted to all data at once."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

CHUNK_ROWS = 4096  # converted to double precision at once


def svm(
    features: Tensor, positive: Tensor, c: float, positive_weight: float, bias_scale: float
) -> tuple[Tensor, Tensor]:
    """Fit a linear support vector machine: minimise |w|^2 / 2 + c * (sum of hinge losses).

    ``features`` (N, D), ``positive`` (N,) bool; the losses of positives count ``positive_weight`` times. The bias is
    the weight of a constant feature ``bias_scale``, so that a larger scale means a weaker regularisation of the bias
    (as in R-CNN's implementation). Returns weights (D,) and a bias (), float32; deterministic.
    """
    from sklearn.svm import LinearSVC  # takes seconds to import

    classifier = LinearSVC(
        C=c,
        loss="hinge",
        class_weight={1: positive_weight},
        intercept_scaling=bias_scale,
        dual=True,
        tol=1e-3,
        max_iter=10_000,
        random_state=0,
    )
    classifier.fit(features.double().cpu().numpy(), positive.long().cpu().numpy())
    return torch.from_numpy(classifier.coef_[0]).float(), torch.tensor(float(classifier.intercept_[0]))


def ridge(batches: Iterable[tuple[Tensor, Tensor]], strength: float) -> tuple[Tensor, Tensor]:
    """Fit a ridge regression: minimise (sum of squared errors) + strength * |w|^2, without a penalty on the bias.

    ``batches`` are features (n, D) and targets (n, T), at least one pair; memory holds about max(D, ``CHUNK_ROWS``)
    samples at once. Returns weights (T, D) and biases (T,), float32.
    """
    buffer: list[Tensor] = []
    products: Tensor | None = None  # Gram matrix of the columns: a one, the features, the targets
    for features, targets in batches:
        width = features.shape[1]
        if sum(map(len, buffer)) >= max(width, CHUNK_ROWS):
            products, buffer = _add_products(products, torch.cat(buffer)), []
        buffer.append(torch.cat([features.new_ones(len(features), 1), features, targets], dim=1))
    rest = torch.cat(buffer)
    if products is None and len(rest) < width:
        return _ridge_dual(rest.double(), width, strength)
    products = _add_products(products, rest)
    mean = products[0] / products[0, 0]
    products.addr_(products[0].clone(), mean, alpha=-1)
    x, y = slice(1, width + 1), slice(width + 1, None)
    weights = _solve(products[x, x], products[x, y], strength)
    return weights.T.float(), (mean[y] - mean[x] @ weights).float()


def _add_products(products: Tensor | None, samples: Tensor) -> Tensor:
    if products is None:
        products = samples.new_zeros(2 * samples.shape[1:], dtype=torch.float64)
    for chunk in (part.double() for part in torch.split(samples, CHUNK_ROWS)):
        products.addmm_(chunk.T, chunk)
    return products


def _ridge_dual(samples: Tensor, width: int, strength: float) -> tuple[Tensor, Tensor]:
    """Solve ``ridge`` in its dual form, for fewer samples than features: w = x^T (x x^T + strength)^-1 y."""
    mean = samples.mean(dim=0)
    x, y = (samples - mean)[:, 1:].tensor_split([width], dim=1)
    weights = x.T @ _solve(x @ x.T, y, strength)
    return weights.T.float(), (mean[width + 1 :] - mean[1 : width + 1] @ weights).float()


def _solve(gram: Tensor, right: Tensor, strength: float) -> Tensor:
    gram.diagonal().add_(strength)
    return torch.cholesky_solve(right, torch.linalg.cholesky(gram))
