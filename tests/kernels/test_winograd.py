from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

from detseg.kernels import convolve, cpu, winograd

# Images, inputs, height, width, outputs: many small maps, few large ones, no side a multiple of a tile.
SHAPES = [(12, 96, 14, 14, 96), (1, 96, 50, 61, 112), (13, 112, 17, 3, 96), (64, 96, 1, 2, 96)]


@pytest.fixture(autouse=True)
def intel(monkeypatch) -> None:
    monkeypatch.setattr(winograd, "is_amd", lambda: False)


def drawn(images: int, inputs: int, height: int, width: int, outputs: int) -> tuple[nn.Conv2d, Tensor]:
    torch.manual_seed(0)
    maps = torch.randn(images, inputs, height, width).to(memory_format=torch.channels_last)
    return nn.Conv2d(inputs, outputs, 3, padding=1), maps


def by_winograd(layer: nn.Conv2d, x: Tensor) -> bool:
    return "_Convolution" in type(convolve(layer, x, layer.weight, layer.bias).grad_fn).__name__


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_the_plain_convolution(shape) -> None:
    layer, x = drawn(*shape)
    assert by_winograd(layer, x)
    x.requires_grad_()
    found = convolve(layer, x, layer.weight, layer.bias)
    assert found.is_contiguous(memory_format=torch.channels_last)
    exact = [value.detach().double().requires_grad_() for value in (x, *layer.parameters())]
    expected = F.conv2d(*exact, padding=1)
    assert_close(found, expected.float(), rtol=0, atol=1e-5)
    direction = torch.randn_like(found)
    gradients = torch.autograd.grad(found, (x, *layer.parameters()), direction)
    for gradient, right in zip(gradients, torch.autograd.grad(expected, exact, direction.double()), strict=True):
        assert_close(gradient, right.float(), rtol=0, atol=float(1e-5 * right.abs().max()))


def test_only_the_gradients_that_are_asked_for_are_made() -> None:
    layer, x = drawn(*SHAPES[0])
    layer.requires_grad_(False)
    convolve(layer, x.requires_grad_(), layer.weight, layer.bias).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None
    layer.requires_grad_(True)
    convolve(layer, x.detach(), layer.weight, None).sum().backward()
    assert layer.weight.grad is not None
    assert layer.bias.grad is None


def test_the_output_may_be_changed_in_place() -> None:
    layer, x = drawn(*SHAPES[0])
    F.relu(convolve(layer, x, layer.weight, layer.bias), inplace=True).sum().backward()
    expected = torch.autograd.grad(F.relu(F.conv2d(x, layer.weight, layer.bias, padding=1)).sum(), layer.weight)[0]
    assert_close(layer.weight.grad, expected, rtol=0, atol=float(1e-4 * expected.abs().max()))


@pytest.mark.parametrize(
    "settings", [{"stride": 2}, {"dilation": 2}, {"groups": 2}, {"padding": 0}, {"padding_mode": "reflect"}]
)
def test_other_layers_are_left_alone(settings) -> None:
    _, x = drawn(*SHAPES[0])
    layer = nn.Conv2d(96, 96, 3, **{"padding": 1, **settings})
    assert not by_winograd(layer, x)
    assert_close(convolve(layer, x, layer.weight, layer.bias), layer(x), rtol=0, atol=0)


def test_few_pixels_few_channels_other_precisions_and_devices_are_left_alone() -> None:
    layer, x = drawn(*SHAPES[0])
    assert not by_winograd(layer, x[:1])
    assert not by_winograd(nn.Conv2d(96, 16, 3, padding=1), x)
    assert not by_winograd(layer, x.contiguous())
    assert not by_winograd(layer.to("meta"), x.to("meta"))
    layer, x = drawn(*SHAPES[0])
    assert not by_winograd(layer.double(), x.double())
    with torch.autocast("cpu", torch.float16):
        assert not by_winograd(layer.float(), x)


def test_processors_that_multiply_matrices_slowly_are_left_alone(monkeypatch) -> None:
    monkeypatch.setattr(winograd, "is_amd", lambda: True)
    assert not by_winograd(*drawn(*SHAPES[0]))


def test_bfloat16_goes_this_way_where_the_processor_is_slow_in_it(monkeypatch) -> None:
    layer, x = drawn(*SHAPES[0])
    for slow in (False, True):
        monkeypatch.setattr(cpu, "_slow_in_bfloat16", lambda slow=slow: slow)
        with torch.autocast("cpu", torch.bfloat16):
            assert by_winograd(layer, x) == slow
            assert by_winograd(layer, x.bfloat16()) == slow
        assert by_winograd(layer, x)
        assert not by_winograd(layer.bfloat16(), x.bfloat16())
        layer.float()


@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_is_rounded_on_its_way_in_and_out_alone(shape, monkeypatch) -> None:
    monkeypatch.setattr(cpu, "_slow_in_bfloat16", lambda: True)
    layer, x = drawn(*shape)
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = convolve(layer, x, layer.weight, layer.bias)
    assert found.dtype == torch.bfloat16
    assert found.is_contiguous(memory_format=torch.channels_last)
    exact = [value.detach().double().requires_grad_() for value in (x.bfloat16(), *layer.parameters())]
    expected = F.conv2d(*exact, padding=1)
    assert_close(found.double(), expected, rtol=2**-8, atol=1e-5)
    direction = torch.randn_like(found)
    with torch.autocast("cpu", torch.bfloat16):  # some call backward() in it
        of_x, *others = torch.autograd.grad(found, (x, *layer.parameters()), direction)
    right_of_x, *right = torch.autograd.grad(expected, exact, direction.double())
    assert_close(of_x, right_of_x.float(), rtol=2**-8, atol=float(1e-5 * right_of_x.abs().max()))
    for gradient, expected in zip(others, right, strict=True):
        assert_close(gradient, expected.float(), rtol=0, atol=float(1e-5 * expected.abs().max()))


class Layer(nn.Module):
    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self.layer, x, self.layer.weight, self.layer.bias)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:FutureWarning")
def test_what_is_compiled_exported_or_traced_keeps_the_plain_convolution() -> None:
    layer, x = drawn(*SHAPES[0])
    expected = layer(x)
    exported = torch.export.export(Layer(layer), (x,), strict=False)
    assert torch.ops.aten.conv2d.default in [node.target for node in exported.graph.nodes]
    traced = torch.jit.trace(Layer(layer), x)
    compiled = torch.compile(Layer(layer), fullgraph=True, backend="eager")
    for model in (exported.module(), traced, compiled):
        assert_close(model(x), expected, rtol=0, atol=0)
    assert_close(traced(x[:1, :, :5, :9]), layer(x[:1, :, :5, :9]), rtol=0, atol=1e-6)


def test_tensors_without_values_leave_nothing_behind() -> None:
    layer, x = drawn(*SHAPES[0])
    winograd._transforms.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        convolve(layer, mode.from_tensor(x), layer.weight, layer.bias)
    with torch.inference_mode():
        assert_close(Layer(layer)(x), layer(x), rtol=0, atol=1e-5)
    assert by_winograd(layer, x)


def test_the_precision_is_that_of_the_maps_whatever_the_default() -> None:
    layer, x = drawn(*SHAPES[0])
    torch.set_default_dtype(torch.float64)
    try:
        assert Layer(layer)(x).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_gradients_may_be_those_of_a_function() -> None:
    layer, x = drawn(*SHAPES[0])
    weight = layer.weight.detach()
    found = torch.func.grad(lambda weight: convolve(layer, x, weight, None).square().sum())(weight)
    expected = torch.func.grad(lambda weight: F.conv2d(x, weight, padding=1).square().sum())(weight)
    assert_close(found, expected, rtol=0, atol=float(1e-5 * expected.abs().max()))
