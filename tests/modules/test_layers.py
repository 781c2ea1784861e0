from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from detseg.kernels import cpu
from detseg.modules.layers import Linear


@pytest.mark.parametrize("slow", [True, False])
def test_under_autocast_bfloat16_comes_out_and_gradients_are_right(slow, monkeypatch) -> None:
    monkeypatch.setattr(cpu, "_slow_in_bfloat16", lambda: slow)
    torch.manual_seed(0)
    layer, x = Linear(64, 8), torch.randn(5, 64).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.bfloat16
    exact = torch.nn.Linear(64, 8).double()
    exact.load_state_dict(layer.state_dict())
    wide = x.detach().double().requires_grad_()
    expected = exact(wide)
    rounding = 2**-8
    assert_close(found.double(), expected, rtol=rounding, atol=1e-6 if slow else 2 * rounding)
    direction = torch.randn_like(found)
    found.backward(direction)
    expected.backward(direction.double())
    assert_close(x.grad.double(), wide.grad, rtol=rounding, atol=1e-6 if slow else 4 * rounding)
    assert_close(layer.weight.grad.double(), exact.weight.grad, rtol=1e-6 if slow else rounding, atol=2e-2 * (not slow))


def test_it_can_be_compiled_under_autocast(monkeypatch) -> None:
    monkeypatch.setattr(cpu, "_slow_in_bfloat16", lambda: True)
    layer, x = Linear(64, 8), torch.randn(5, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.compile(layer, fullgraph=True, backend="eager")(x)
        assert_close(found, torch.nn.functional.linear(x, layer.weight, layer.bias), rtol=0, atol=0)


def test_weights_of_half_precision_are_left_alone(monkeypatch) -> None:
    monkeypatch.setattr(cpu, "_slow_in_bfloat16", lambda: True)
    layer, x = Linear(64, 8).bfloat16(), torch.randn(5, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias), rtol=0, atol=0)
