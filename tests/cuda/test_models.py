"""Every model on a GPU against the same on the CPU: losses, gradients, detections, CUDA graphs, waits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.functional import pad
from torch.testing import assert_close
from torch.utils._pytree import tree_map

from detseg.structures import Batch
from detseg.tasks.compilation import compiled
from tests.cuda.devices import no_waits, to
from tests.models import (
    segmenters,
    test_dilated_fcn,
    test_fast_rcnn,
    test_faster_rcnn,
    test_fcn,
    test_mask_rcnn,
    test_rcnn,
    test_retinanet,
    tester,
)


class Case(NamedTuple):
    """A model that draws every candidate, so that its losses are not random, and a batch of noise for it."""

    make: Callable[[], Any]
    scene: Callable[[], Batch]


def of_detector(cls: type[tester.DetectorTester]) -> Case:
    return Case(partial(cls.make, **cls.exhaustive), partial(tester.scene, cls.needs_proposals, cls.masks))


CASES = {
    "faster_rcnn": of_detector(test_faster_rcnn.TestWithPyramid),
    "faster_rcnn_c4": of_detector(test_faster_rcnn.TestWithOneMap),
    "mask_rcnn": of_detector(test_mask_rcnn.TestWithPyramid),
    "mask_rcnn_c4": of_detector(test_mask_rcnn.TestWithOneMapAndRoIPool),
    "fast_rcnn": of_detector(test_fast_rcnn.TestWithPyramid),
    "retinanet": of_detector(test_retinanet.TestRetinaNet),
    "rcnn": of_detector(test_rcnn.TestWithMachines),
    "fcn": Case(test_fcn.TestFCN.make, segmenters.scene),
    "dilated_fcn": Case(test_dilated_fcn.TestDilatedFCN.make, segmenters.scene),
}
each_model = pytest.mark.parametrize("name", CASES)


def each_on_gpu(*on_cpu: str) -> pytest.MarkDecorator:
    """Every model on a GPU, and some of them on the CPU, which proves the test itself."""
    cases = [
        *(("cpu", name) for name in on_cpu),
        *(pytest.param("cuda", name, marks=pytest.mark.cuda) for name in CASES),
    ]
    return pytest.mark.parametrize(("device", "name"), cases)


def model_and_batch(name: str) -> tuple[Any, Batch]:
    """In double precision, on the CPU. Pixels are noise, for equal ones would give equal scores, sorted at will."""
    torch.manual_seed(0)
    case = CASES[name]
    model, batch = case.make().double().eval(), case.scene()
    for parameter in model.parameters():
        if not parameter.any():  # some layers begin with zeros
            nn.init.normal_(parameter, std=0.1)
    batch = batch._replace(images=torch.randint(0, 256, batch.images.shape, dtype=torch.uint8))
    return model, batch


def losses_and_gradients(model: Any, batch: Batch, loss: Any = None) -> tuple[Any, Any]:
    model.zero_grad()
    losses = (loss or model.loss)(batch)
    torch.stack(list(losses.values())).sum().backward()
    gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    return {name: value.detach() for name, value in losses.items()}, gradients


@each_on_gpu("mask_rcnn", "retinanet", "fcn")
def test_losses_and_gradients_equal_those_of_the_cpu(device: str, name: str) -> None:
    model, batch = model_and_batch(name)
    expected, gradients = losses_and_gradients(model, batch)
    losses, moved = to(losses_and_gradients(copy.deepcopy(model).to(device), to(batch, device)), "cpu")
    assert_close(losses, expected, rtol=1e-6, atol=1e-8)
    for parameter, gradient in gradients.items():
        scale = float(gradient.abs().max())
        assert_close(moved[parameter], gradient, rtol=1e-5, atol=1e-6 * scale + 1e-9, msg=parameter)


@each_on_gpu("mask_rcnn", "fast_rcnn", "fcn")
@torch.no_grad()
def test_predictions_equal_those_of_the_cpu(device: str, name: str) -> None:
    model, batch = model_and_batch(name)
    images, sizes, proposals = batch.images, batch.image_sizes, batch.proposals
    inputs = (images, sizes) if proposals is None else (images, sizes, proposals)
    expected = model(*inputs)
    predictions = to(copy.deepcopy(model).to(device)(*to(inputs, device)), "cpu")
    assert_close(predictions, expected, rtol=1e-5, atol=1e-6)


@each_on_gpu("fast_rcnn")
def test_bfloat16_losses_are_close(device: str, name: str) -> None:
    model, batch = model_and_batch(name)
    expected, _ = losses_and_gradients(model, batch)
    moved = copy.deepcopy(model).float().to(device)
    with torch.autocast(device, torch.bfloat16):
        losses, gradients = losses_and_gradients(moved, to(batch, device))
    for loss, value in expected.items():
        assert losses[loss].dtype == torch.float32
        assert_close(losses[loss].cpu().double(), value, rtol=0.2, atol=0.02)
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.cuda
@each_model
def test_training_steps_do_not_wait_for_the_gpu(name: str) -> None:
    model, batch = (to(one, "cuda") if isinstance(one, tuple) else one.to("cuda") for one in model_and_batch(name))
    model.float().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    losses_and_gradients(model, batch)  # compiles kernels
    optimizer.step()
    with no_waits("cuda"):
        losses_and_gradients(model, batch)
        optimizer.step()


@pytest.mark.cuda
@each_model
@torch.no_grad()
def test_inference_does_not_wait_for_the_gpu(name: str) -> None:
    model, batch = (to(one, "cuda") if isinstance(one, tuple) else one.to("cuda") for one in model_and_batch(name))
    inputs = (batch.images, batch.image_sizes) if batch.proposals is None else (*batch[:2], batch.proposals)
    model(*inputs)
    with no_waits("cuda"):
        model(*inputs)


@each_on_gpu("fast_rcnn")
def test_compiled_losses_and_gradients_are_the_same(device: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As CUDA graphs, recorded and replayed, with more objects and fewer; on the CPU, of graphs that are run as is."""
    if device == "cpu":
        compile_ = torch.compile
        monkeypatch.setattr(torch, "compile", lambda loss, mode, **rest: compile_(loss, backend="eager", **rest))
    # The samplers of these models draw all candidates, and so depend on their number, which real ones do not.
    monkeypatch.setattr(torch._dynamo, "mark_dynamic", torch._dynamo.maybe_mark_dynamic)
    torch.compiler.reset()
    model, batch = model_and_batch(name)
    model, batch = model.to(device), to(batch, device)
    loss = compiled(model.loss)
    batches = (batch, batch, batch, with_room(batch, 8), with_room(batch, 8), batch)
    for one in batches if device == "cuda" else batches[2:4]:
        expected, gradients = losses_and_gradients(model, one)
        losses, others = losses_and_gradients(model, one, loss)
        assert_close(losses, expected, rtol=1e-5, atol=1e-7)
        for parameter, gradient in gradients.items():
            scale = float(gradient.abs().max())
            assert_close(others[parameter], gradient, rtol=1e-4, atol=1e-5 * scale + 1e-9, msg=parameter)


def with_room(batch: Batch, count: int) -> Batch:
    """The same objects in ``count`` slots."""

    def more(value: torch.Tensor) -> torch.Tensor:
        return pad(value, (0, 0) * (value.ndim - 2) + (0, count - value.shape[1]))

    return batch._replace(targets=tree_map(lambda value: value if value is None else more(value), batch.targets))
