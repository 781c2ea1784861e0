"""Losses of maps of labels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close
from torchvision.ops import sigmoid_focal_loss

from detseg.ops.losses import dice_loss, focal_loss, median_frequency_weights, semantic_loss
from detseg.structures import IGNORE_INDEX

LOSSES = (semantic_loss, focal_loss, dice_loss)


def maps(classes: int = 4, void: float = 0.3) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    logits = (3 * torch.randn(2, classes, 5, 7)).requires_grad_()
    labels = torch.randint(0, classes, (2, 5, 7))
    return logits, torch.where(torch.rand(2, 5, 7) < void, IGNORE_INDEX, labels)


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0, 1.0, 0.0])])
def test_cross_entropy_is_the_mean_over_what_is_not_void(weights: Tensor | None) -> None:
    logits, labels = maps()
    valid = labels != IGNORE_INDEX
    flat = logits.permute(0, 2, 3, 1)[valid]
    assert_close(semantic_loss(logits, labels, weights), F.cross_entropy(flat, labels[valid], weights))


def test_focal_loss_of_two_classes_is_torchvisions() -> None:
    logits, labels = maps(2)
    valid = labels != IGNORE_INDEX
    difference = (logits[:, 1] - logits[:, 0])[valid]
    expected = sigmoid_focal_loss(difference, labels[valid].float(), alpha=-1, gamma=2, reduction="mean")
    assert_close(focal_loss(logits, labels), expected)


def test_focal_loss_without_focus_is_the_cross_entropy() -> None:
    logits, labels = maps()
    assert_close(focal_loss(logits, labels, gamma=0), semantic_loss(logits, labels))


def test_dice_loss_by_a_loop() -> None:
    logits, labels = maps()
    labels[labels == 2] = 1  # a class that is not shown
    p, g = logits.softmax(dim=1).detach().numpy(), labels.numpy()
    parts = []
    for label in (0, 1, 3):
        both = first = second = 0.0
        for b, y, x in np.argwhere(g != IGNORE_INDEX):
            truth = float(g[b, y, x] == label)
            both += p[b, label, y, x] * truth
            first += p[b, label, y, x] ** 2
            second += truth**2
        parts.append(1 - 2 * both / (first + second))
    assert dice_loss(logits, labels).item() == pytest.approx(np.mean(parts), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_certainty_costs_nothing(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    _, labels = maps()
    logits = 100 * F.one_hot(torch.where(labels == IGNORE_INDEX, 0, labels), 4).permute(0, 3, 1, 2).float()
    assert loss(logits, labels).item() == pytest.approx(0, abs=1e-6)
    assert loss(-logits, labels).item() > 0.5


@pytest.mark.parametrize("loss", LOSSES)
def test_void_gets_no_gradient(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    logits, labels = maps()
    loss(logits, labels).backward()
    assert logits.grad is not None
    assert torch.equal((logits.grad != 0).any(dim=1), labels != IGNORE_INDEX)


@pytest.mark.parametrize("loss", [*LOSSES, lambda logits, labels: semantic_loss(logits, labels, torch.ones(4))])
@pytest.mark.parametrize("images", [2, 0])
def test_nothing_but_void_gives_zero_and_a_gradient_of_zero(
    loss: Callable[[Tensor, Tensor], Tensor], images: int
) -> None:
    logits, labels = maps(void=1)
    value = loss(logits[:images], labels[:images])
    value.backward()
    assert value.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_computed_in_single(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    logits, labels = torch.full((1, 2, 300, 300), 0.5, dtype=torch.float16), torch.zeros(1, 300, 300, dtype=torch.int64)
    assert loss(logits, labels).dtype == torch.float32
    assert_close(loss(logits, labels), loss(logits.float(), labels))


def test_median_frequency_weights_by_a_loop() -> None:
    counts = np.array([[50, 50, 0, 0], [10, 0, 30, 0], [0, 0, 60, 0], [80, 20, 0, 0]])
    frequencies = []
    for label in range(3):
        images = [image for image in counts if image[label]]
        frequencies.append(sum(image[label] for image in images) / sum(image.sum() for image in images))
    expected = [np.median(frequencies) / frequency for frequency in frequencies] + [1]
    assert_close(median_frequency_weights(torch.from_numpy(counts)), torch.tensor(expected, dtype=torch.float32))
    assert median_frequency_weights(torch.tensor([[90, 0, 10, 0]])).tolist() == pytest.approx([5 / 9, 1, 5, 1])
    assert median_frequency_weights(torch.zeros(0, 2)).tolist() == [1, 1]
