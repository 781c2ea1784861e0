from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from detseg.ops.losses import class_loss, delta_loss, objectness_loss

VALID = torch.tensor([True, False, True, True, False, True])
NOTHING = torch.zeros(6, dtype=torch.bool)
GARBAGE = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e30])


def slots(*shape: int) -> Tensor:
    torch.manual_seed(0)
    return (3 * torch.randn(6, *shape)).requires_grad_()


def test_class_loss_is_the_mean_over_the_valid() -> None:
    logits, labels = slots(4), torch.tensor([0, 99, 3, 1, -7, 2])
    assert_close(class_loss(logits, labels, VALID), F.cross_entropy(logits[VALID], labels[VALID]))


def test_objectness_loss_is_the_mean_over_the_valid() -> None:
    logits, positive = slots(), torch.tensor([True, True, False, False, False, True])
    expected = F.binary_cross_entropy_with_logits(logits[VALID], positive[VALID].float())
    assert_close(objectness_loss(logits, positive, VALID), expected)


def test_delta_loss_is_the_sum_over_the_positive_divided_by_all_samples() -> None:
    deltas, targets = slots(4), slots(4).detach().flip(0)
    expected = F.smooth_l1_loss(deltas[VALID], targets[VALID], beta=1 / 9, reduction="sum") / 30
    assert_close(delta_loss(deltas, targets, VALID, torch.tensor(30)), expected)


def test_delta_loss_has_the_original_bend() -> None:
    """py-faster-rcnn with sigma = 3: 0.5 * 9 * x ** 2 below 1 / 9, |x| - 0.5 / 9 above."""
    deltas = torch.tensor([[0.1, 0, 0, 0], [0, 2, 0, 0]])
    loss = delta_loss(deltas, torch.zeros(2, 4), torch.ones(2, dtype=torch.bool), torch.tensor(1))
    assert loss.item() == pytest.approx(0.5 * 9 * 0.01 + 2 - 0.5 / 9)


def test_only_the_valid_get_a_gradient() -> None:
    logits = slots(4)
    class_loss(logits, torch.zeros(6, dtype=torch.int64), VALID).backward()
    assert torch.equal(logits.grad.abs().sum(dim=1) > 0, VALID)


def losses_of_nothing() -> list[tuple[Tensor, Tensor]]:
    logits, objectness, deltas = slots(4), slots(), slots(4)
    return [
        (class_loss(logits, torch.full((6,), 99), NOTHING), logits),
        (objectness_loss(objectness, VALID, NOTHING), objectness),
        (delta_loss(deltas, GARBAGE.expand(6, 4), NOTHING, NOTHING.sum()), deltas),
    ]


@pytest.mark.parametrize("which", range(3))
def test_nothing_valid_gives_zero_and_a_gradient_of_zero(which) -> None:
    loss, parameter = losses_of_nothing()[which]
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(parameter.grad, torch.zeros_like(parameter))


def test_targets_of_padding_are_not_read() -> None:
    deltas, targets = slots(4), slots(4).detach().flip(0)
    delta_loss(deltas, targets, VALID, VALID.sum()).backward()
    clean, deltas.grad = deltas.grad, None
    loss = delta_loss(deltas, torch.where(VALID[:, None], targets, GARBAGE), VALID, VALID.sum())
    loss.backward()
    assert loss.isfinite()
    assert torch.equal(deltas.grad, clean)


def test_half_precision_is_computed_in_single() -> None:
    logits = torch.tensor([[30000.0, -30000.0]], dtype=torch.float16)
    loss = class_loss(logits, torch.tensor([1]), torch.tensor([True]))
    assert loss.dtype == torch.float32
    assert loss.item() == 60000
