"""The switch between plain operations and fast kernels."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch.testing import assert_close

from detseg import kernels
from detseg.kernels import cpu, winograd
from detseg.models import FasterRCNN
from detseg.modules import FPN, RoIAlign, roi_pooler
from detseg.modules.backbones import ResNet
from detseg.modules.layers import ConvNormAct, Linear
from detseg.structures import Batch, Instances
from tests.modules.backbones.tester import images, shake
from tests.ops.drawn import random_boxes, random_maps


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("the fast kernel must not run")


def test_fast_is_the_default() -> None:
    assert kernels.is_fast()


def test_use_takes_effect_at_once_and_ends_with_its_context() -> None:
    try:
        with kernels.use(fast=False):
            assert not kernels.is_fast()
            with kernels.use(fast=True):
                assert kernels.is_fast()
            assert not kernels.is_fast()
        assert kernels.is_fast()
        kernels.use(fast=False)
        assert not kernels.is_fast()
    finally:
        kernels.use(fast=True)


def test_the_plain_path_calls_no_fast_kernel(monkeypatch) -> None:
    for module, name in ((roi_pooler, "roi_align"), (winograd, "conv2d")):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(winograd, "is_amd", lambda: False)
    layer = ConvNormAct(96, 96, 3)
    x = torch.randn(1, 96, 32, 32).to(memory_format=torch.channels_last)
    maps, regions = random_maps((8, 16)), Instances(random_boxes(2, 3), torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(AssertionError):
        layer(x)
    with pytest.raises(AssertionError):
        RoIAlign()(maps, regions, (8, 16), 2)
    with kernels.use(fast=False):
        assert torch.equal(layer(x), torch.nn.functional.conv2d(x, layer.weight, layer.bias, padding=1))
        assert RoIAlign()(maps, regions, (8, 16), 2).shape == (6, 3, 2, 2)


def test_under_autocast_plain_linear_is_pytorch_s(monkeypatch) -> None:
    monkeypatch.setattr(cpu, "_slow_in_bfloat16", lambda: True)
    layer, x = Linear(64, 8), torch.randn(5, 64)
    with torch.autocast("cpu", torch.bfloat16), kernels.use(fast=False):
        assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))


def test_compiles_and_pickles_with_either_choice() -> None:
    torch.manual_seed(0)
    backbone = shake(ResNet("resnet18", norm="frozen", stages=[3, 4])).eval()
    batch = images(1, 3, 64, 64)
    for fast in (True, False):
        torch.compiler.reset()
        with kernels.use(fast=fast), torch.no_grad():
            expected = backbone(batch)
            compiled = torch.compile(backbone, fullgraph=True, backend="eager")(batch)
            unpickled = pickle.loads(pickle.dumps(backbone))(batch)
        for feature, same, again in zip(expected, compiled, unpickled, strict=True):
            assert_close(same, feature)
            assert torch.equal(again, feature)


def test_compiled_code_follows_the_switch() -> None:
    """A compiled function is compiled anew after the switch."""
    maps, regions = random_maps((8, 16)), Instances(random_boxes(2, 3), torch.ones(2, 3, dtype=torch.bool))
    torch.compiler.reset()
    pool = torch.compile(lambda: RoIAlign()(maps, regions, (8, 16), 2), fullgraph=True, backend="eager")
    fast = pool()
    assert fast.is_contiguous(memory_format=torch.channels_last)
    with kernels.use(fast=False):
        plain = pool()
    assert not plain.is_contiguous(memory_format=torch.channels_last)
    assert_close(plain, fast, rtol=0, atol=1e-5)


def test_a_detector_trains_alike_on_either_path() -> None:
    """Losses and gradients with sampled anchors, folded norms and RoIAlign by lookup, against the plain operations."""
    torch.manual_seed(0)
    model = FasterRCNN(FPN(shake(ResNet("resnet18", norm="frozen", stages=[3, 4])), channels=16), num_classes=2)
    boxes, sizes = torch.tensor([[[8.0, 8, 60, 70]], [[16.0, 0, 90, 64]]]), torch.full((2, 2), 96)
    targets = Instances(boxes, torch.ones(2, 1, dtype=torch.bool), torch.tensor([[0], [1]]))
    batch = Batch(images(2, 3, 96, 96), sizes, targets, torch.arange(2), sizes)
    results = []
    for fast in (True, False):
        with kernels.use(fast=fast):
            model.zero_grad()
            torch.manual_seed(1)
            losses = model.loss(batch)
            sum(losses.values()).backward()
            gradients = {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
            results.append((losses, {name: value.clone() for name, value in gradients.items()}))
    (losses, gradients), (plain_losses, plain_gradients) = results
    assert_close(losses, plain_losses, rtol=1e-4, atol=1e-6)
    for name, expected in plain_gradients.items():
        assert (gradients[name] - expected).norm() <= 1e-3 * expected.norm() + 1e-7, name
