"""Batches that do not fit into the memory: allocations that fail are injected."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.testing import assert_close

from detseg.errors import ConfigError
from detseg.modules import FPN, TwoMLPHead
from detseg.structures import Batch
from detseg.tasks import DetectionTask
from detseg.tasks.memory import in_halves, largest_batch
from tests.colours import ColourDetector, colours, write_colours
from tests.models.detectors import SmallBackbone, faster_rcnn
from tests.models.tester import CLASSES, gradients, rows, scene
from tests.training import TRAINING_ONLY

QUIET: dict[str, Any] = {**TRAINING_ONLY, "max_epochs": 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colours(tmp_path_factory.mktemp("colours"))


@pytest.mark.parametrize("fits", [4, 2, 1])
def test_losses_and_gradients_in_halves_are_those_of_the_whole(fits: int) -> None:
    torch.manual_seed(0)
    settings = {"rpn_batch_size_per_image": 16, "batch_size_per_image": 16}
    model = faster_rcnn(FPN(SmallBackbone(), 8), CLASSES, TwoMLPHead(8), **settings).eval().double()
    batch = rows(scene()._replace(seeds=torch.arange(2)), [0, 1, 1, 0])
    expected = model.loss(batch)
    torch.stack(list(expected.values())).sum().backward()
    whole = {name: value.clone() for name, value in gradients(model).items()}
    model.zero_grad()
    seen: list[int] = []

    def loss(batch: Batch) -> dict[str, Tensor]:
        if len(batch.images) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        seen.append(len(batch.images))
        return model.loss(batch)

    losses = in_halves(loss, batch)
    assert seen == [min(fits, 2)] * (4 // min(fits, 2))
    assert_close(losses, expected)
    torch.stack(list(losses.values())).sum().backward()
    for name, gradient in gradients(model).items():
        assert_close(gradient, whole[name], rtol=1e-6, atol=1e-9 * float(whole[name].abs().max()), msg=name)


def test_an_image_that_does_not_fit_is_an_error() -> None:
    def loss(batch: Batch) -> dict[str, Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError, match="a single image"):
        in_halves(loss, scene())


class Failing(torch.autograd.Function):
    """Runs out of memory in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, held: Any) -> Tensor:
        ctx.held = held
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")


class Held:
    """Something that a graph keeps alive."""


class OutOfMemory(ColourDetector):
    """Has no memory for more than two images in its first three steps, in the forward or the backward pass."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where, self.failures = where, 0
        self.held: weakref.ref[Held] | None = None

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        assert self.held is None or self.held() is None, "the failed pass is still in memory"
        losses = super().loss(batch)
        if len(batch.images) > 2 and self.failures < 3 and self.where:
            self.failures += 1
            if self.where == "forward":
                raise torch.OutOfMemoryError("CUDA out of memory")
            held = Held()
            self.held = weakref.ref(held)
            losses["colour"] = Failing.apply(losses["colour"], held)
        return losses


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_training_goes_on_in_halves(root: Path, where: str, caplog: pytest.LogCaptureFixture) -> None:
    weights = []
    for model in (OutOfMemory(""), OutOfMemory(where)):
        Trainer(**QUIET).fit(DetectionTask(model), colours(root, batch_size=4))
        weights.append(model.weight.detach())
    assert model.failures == 3
    assert_close(*weights)
    assert weights[0].any()
    assert caplog.text.count("do not fit into the memory") == 1


@pytest.mark.parametrize(("per_image", "base", "expected"), [(0.03, 0.05, 26), (0.2, 0.1, 3), (0.5, 0.3, 1)])
def test_the_largest_batch_is_found(per_image: float, base: float, expected: int) -> None:
    def share(images: int) -> float:
        if base + per_image * images > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return base + per_image * images

    assert largest_batch(share) == expected


def test_no_batch_fits() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="a batch of 2 takes more than 85% of the memory"):
        largest_batch(lambda images: 0.5 * images, smallest=2)


def test_without_a_gpu_a_number_is_asked_for(root: Path) -> None:
    data = colours(root, batch_size="auto")
    assert data.batch_size == 2  # in an evaluation
    with pytest.raises(ConfigError, match="on a CPU, set a number"):
        Trainer(**QUIET).fit(DetectionTask(ColourDetector()), data)
