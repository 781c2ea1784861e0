from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import Ridge
from torch.testing import assert_close

from detseg.ops.linear import ridge, svm


def data(rows: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    features = torch.randn(rows, width, generator=random)
    positive = features[:, 0] + 0.8 * torch.randn(rows, generator=random) > 0.7
    return features, positive


@pytest.mark.parametrize(("c", "weight", "bias"), [(0.001, 2.0, 10.0), (0.1, 1.0, 1.0)])
def test_svm_minimises_its_objective(c, weight, bias) -> None:
    """The dual, a quadratic programme in a box, solved by scipy; the bias is one more feature."""
    features, positive = data(120, 6)
    x = np.concatenate([features.numpy(), np.full((120, 1), bias)], axis=1).astype(np.float64)
    y = np.where(positive.numpy(), 1.0, -1.0)
    signed = x * y[:, None]
    limit = c * np.where(positive.numpy(), weight, 1.0)
    solved = minimize(
        lambda a: (0.5 * ((a @ signed) ** 2).sum() - a.sum(), signed @ (a @ signed) - 1),
        np.zeros(120),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, top) for top in limit],
        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 20_000, "maxfun": 40_000},
    )
    expected = solved.x @ signed
    found, offset = svm(features, positive, c, weight, bias)
    assert_close(found.numpy(), expected[:-1], rtol=1e-2, atol=1e-3, check_dtype=False)
    assert float(offset) == pytest.approx(expected[-1] * bias, rel=1e-2, abs=1e-3)


def test_svm_is_the_same_each_time() -> None:
    features, positive = data(200, 10)
    assert all(map(torch.equal, svm(features, positive, 0.01, 2, 10), svm(features, positive, 0.01, 2, 10)))


@pytest.mark.parametrize("rows", [30, 60, 420])
def test_ridge_equals_scikit_learn(rows, monkeypatch) -> None:
    """With fewer rows than features, and with more."""
    monkeypatch.setattr("detseg.ops.linear.CHUNK_ROWS", 50)
    random = torch.Generator().manual_seed(0)
    features = 3 + torch.randn(rows, 60, generator=random)
    targets = features[:, :4] * 2 - 5 + torch.randn(rows, 4, generator=random)
    expected = Ridge(alpha=20.0).fit(features.double().numpy(), targets.double().numpy())
    for size in (rows, 7, 60):  # all at once, in small parts, in parts that are as many rows as features
        weights, bias = ridge(zip(features.split(size), targets.split(size), strict=True), 20.0)
        assert_close(weights.numpy(), expected.coef_, rtol=1e-5, atol=1e-5, check_dtype=False)
        assert_close(bias.numpy(), expected.intercept_, rtol=1e-5, atol=1e-5, check_dtype=False)


def test_ridge_takes_more_rows_than_are_looked_at_at_once() -> None:
    features, _ = data(9000, 5)
    targets = features[:, :2] + 1
    expected = Ridge(alpha=5.0).fit(features.double().numpy(), targets.double().numpy())
    assert_close(ridge([(features, targets)], 5.0)[0].numpy(), expected.coef_, rtol=1e-5, atol=1e-6, check_dtype=False)
