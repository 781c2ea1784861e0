"""Probabilities of windows, and their interpolation to pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import RegularGridInterpolator

from detseg.analysis.heatmap import interpolate_windows, top_classes, window_probabilities
from detseg.models import Classifier
from detseg.modules.backbones import SqueezeNet


def test_values_are_interpolated_between_the_centres_of_windows() -> None:
    """Bilinear interpolation between the centres of the windows, against SciPy."""
    cells = np.random.default_rng(0).random((3, 4)).astype(np.float32)
    found = interpolate_windows(cells, (50, 62), window=20, stride=12)
    middles = 10 + 12 * np.arange(3), 10 + 12 * np.arange(4)
    y, x = (np.clip(np.arange(length) + 0.5, 10, last) for length, last in ((50, 34), (62, 46)))
    expected = RegularGridInterpolator(middles, cells)(tuple(np.meshgrid(y, x, indexing="ij")))
    assert found == pytest.approx(expected, abs=1e-6)


def test_probabilities_are_those_of_the_classifier_in_its_window() -> None:
    """An image of the classifier's own size has one window."""
    torch.manual_seed(0)
    classifier = Classifier(SqueezeNet(), 3).eval()
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    maps = window_probabilities(classifier, image, 64, torch.device("cpu"))
    with torch.no_grad():
        expected = classifier(torch.from_numpy(image).permute(2, 0, 1)[None]).softmax(dim=1)[0]
    np.testing.assert_allclose(maps, expected[:, None, None], atol=1e-6)


def test_top_classes_are_ranked_by_their_best_window() -> None:
    maps = np.array([[[0.1, 0.2]], [[0.9, 0.0]], [[0.0, 0.6]]], dtype=np.float32)
    assert top_classes(maps, 2) == [1, 2]
