from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from detseg.modules.backbones import Highway
from detseg.modules.backbones.highway import HighwayLayer
from tests.modules.backbones.tester import BackboneTester


class TestHighway(BackboneTester):
    kind = Highway
    arguments = {"depth": 10}
    frozen = ("layer1.", "layer2.")
    compiled = {}


@torch.no_grad()
def test_a_layer_is_equation_3() -> None:
    torch.manual_seed(0)
    layer, x = HighwayLayer(4, gate_bias=-1.0), torch.randn(2, 4, 6, 5)
    transform = F.conv2d(x, layer.transform.weight, layer.transform.bias, padding=1).relu()
    gate = torch.sigmoid(F.conv2d(x, layer.gate.weight, layer.gate.bias, padding=1))
    assert_close(layer(x), transform * gate + x * (1 - gate))


@pytest.mark.parametrize("gate_bias", [-1.0, -3.0])
def test_gates_begin_almost_closed(gate_bias) -> None:
    """Section 2.2."""
    gates = [layer.gate for layer in Highway(10, gate_bias).modules() if isinstance(layer, HighwayLayer)]
    assert len(gates) == 4
    assert all(torch.equal(gate.bias, torch.full_like(gate.bias, gate_bias)) for gate in gates)


@torch.no_grad()
def test_closed_gates_carry_and_open_ones_transform() -> None:
    x = torch.randn(1, 4, 8, 8)
    assert_close(HighwayLayer(4, gate_bias=-50.0)(x), x)
    layer = HighwayLayer(4, gate_bias=50.0)
    assert_close(layer(x), layer.transform(x).relu())


@pytest.mark.parametrize(("depth", "highways"), [(10, [0, 1, 1, 1, 1]), (19, [0, 4, 3, 3, 3]), (32, [0, 7, 7, 6, 6])])
def test_depth_counts_the_layers_with_weights(depth, highways) -> None:
    with torch.device("meta"):
        backbone = Highway(depth)
    layers = [backbone.get_submodule(name) for name in backbone.layer_names]
    found = [sum(isinstance(block, HighwayLayer) for block in layer) for layer in layers]
    assert found == highways
    assert sum(found) + len(layers) + 1 == depth


def test_a_deep_network_passes_its_gradient_on() -> None:
    """Section 3.1: 100 layers train as 10 do. Plain layers of this depth are beyond use without batch norm."""
    torch.manual_seed(0)
    norms = []
    for depth in (10, 60):
        layer = Highway(depth, stages=[2])
        layer(torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8))[0].square().mean().backward()
        norms.append(float(layer.layer1[0][0].weight.grad.norm()))
    assert 0.1 < norms[1] / norms[0] < 10


@pytest.mark.parametrize(("arguments", "message"), [({"depth": 9}, "depth 9"), ({"gate_bias": 0.0}, "negative")])
def test_wrong_arguments(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        Highway(**arguments)
