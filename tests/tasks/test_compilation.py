"""Losses that are compiled. A backend that runs each graph as it is stands for a real one, which takes a minute."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch.nn.functional import pad
from torch.testing import assert_close
from torch.utils._pytree import tree_map

from detseg.errors import ConfigError, DetsegError
from detseg.models import FasterRCNN, FastRCNN
from detseg.models.fast_rcnn import FastRCNNHeads
from detseg.modules import FPN, BalancedSampler, RoIHeads, TwoMLPHead
from detseg.structures import Batch
from detseg.tasks import DetectionTask, compilation
from detseg.tasks.compilation import compiled
from tests.colours import ColourDetector, colours, write_colours
from tests.models import test_retinanet
from tests.models.detectors import SmallBackbone
from tests.models.tester import scene


class Compiler:
    """Stands for ``torch.compile``: what it was asked for, the graphs it was given, and runs them as they are."""

    def __init__(self, broken: bool = False) -> None:
        self.asked: list[dict[str, Any]] = []
        self.graphs: list[Any] = []
        self.broken = broken
        self.compile = torch.compile

    def __call__(self, function: Callable[..., Any], mode: str, **settings: Any) -> Any:
        self.asked.append({"mode": mode, **settings})
        return self.compile(function, backend=self.take, **settings)

    def take(self, graph: Any, _: Any) -> Callable[..., Any]:
        if self.broken:
            raise RuntimeError("no compiler here")
        self.graphs.append(graph)
        return graph.forward  # type: ignore[no-any-return]


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    found = Compiler()
    monkeypatch.setattr(torch, "compile", found)
    torch.compiler.reset()
    return found


def model() -> FasterRCNN:
    seed_everything(0, verbose=False)
    heads = RoIHeads(box_head=TwoMLPHead(16), sampler=BalancedSampler(8, 0.25))
    return FasterRCNN(FPN(SmallBackbone(), 16), 3, roi_heads=heads)


def more_objects(batch: Batch, count: int) -> Batch:
    def more(value: torch.Tensor) -> torch.Tensor:
        return pad(value, (0, 0) * (value.ndim - 2) + (0, count - value.shape[1]))

    return batch._replace(targets=tree_map(lambda value: value if value is None else more(value), batch.targets))


def wider(batch: Batch) -> Batch:
    return batch._replace(images=pad(batch.images, (0, 32)))


def fit(task: DetectionTask, root: Path, **settings: Any) -> None:
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        max_epochs=2,
        limit_val_batches=0,
        **settings,
    )
    trainer.fit(task, colours(root, batch_size=2))


def test_losses_are_the_same_and_one_graph_does_for_any_number_of_objects(compiler: Compiler) -> None:
    ours, batch = model(), scene()
    loss = compiled(ours.loss)
    for one in (batch, more_objects(batch, 4), more_objects(batch, 16)):
        torch.manual_seed(0)
        expected = ours.loss(one)
        torch.manual_seed(0)
        assert_close(loss(one), expected, rtol=1e-5, atol=1e-6)
        assert len(compiler.graphs) == 1
    assert compiler.asked == [{"mode": "reduce-overhead", "fullgraph": True, "dynamic": False}]


def test_one_object_an_image_is_a_shape_like_others(compiler: Compiler) -> None:
    ours, batch = test_retinanet.TestRetinaNet.make(), scene()
    one = batch._replace(targets=tree_map(lambda value: value if value is None else value[:, :1], batch.targets))
    assert_close(compiled(ours.loss)(one), ours.loss(one), rtol=1e-5, atol=1e-6)


def test_what_a_graph_gave_may_be_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA graph gives the same tensors each time."""
    value = torch.zeros(())
    monkeypatch.setattr(torch, "compile", lambda *_, **__: lambda _: {"loss": value.add_(1)})
    loss = compiled(model().loss)
    first, second = loss(scene()), loss(scene())
    assert (float(first["loss"]), float(second["loss"])) == (1, 2)


def test_shapes_of_images_are_compiled_anew_and_after_so_many_left_as_they_are(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compilation, "SHAPES", 2)
    ours, batch = ColourDetector(), scene()
    loss = compiled(ours.loss)
    for one, graphs in ((batch, 1), (wider(batch), 2), (batch, 2), (wider(wider(batch)), 2), (wider(batch), 2)):
        assert_close(loss(one), ours.loss(one))
        assert len(compiler.graphs) == graphs
    said = [record.getMessage() for record in caplog.records if record.name == compilation.__name__]
    assert said == ["images (2, 3, 96, 160): 2 other shapes are compiled, this one is not"]


def test_a_training_gives_the_same_weights_and_leaves_nothing_compiled(compiler: Compiler, tmp_path: Path) -> None:
    root = write_colours(tmp_path)
    found = []
    for compile_loss in (False, True):
        task = DetectionTask(ColourDetector(), lr=0.1, compile_loss=compile_loss)
        fit(task, root)
        found.append(task.model.state_dict())
        assert bool(compiler.graphs) == compile_loss
    assert_close(found[1], found[0])
    assert found[0]["weight"].abs().min() > 0

    for again in (copy.deepcopy(task), pickle.loads(pickle.dumps(task))):
        before = {name: value.clone() for name, value in again.model.state_dict().items()}
        again.model.load_state_dict(model := ColourDetector().state_dict())
        fit(again, root)
        assert_close(again.model.state_dict(), found[0])
        assert not torch.equal(model["weight"], before["weight"])
    assert_close(task.model.state_dict(), found[0])


def test_gradients_that_are_accumulated_are_not_left_in_cuda_graphs(compiler: Compiler, tmp_path: Path) -> None:
    fit(DetectionTask(ColourDetector(), compile_loss=True), write_colours(tmp_path), accumulate_grad_batches=2)
    assert [settings["mode"] for settings in compiler.asked] == ["default"]


def test_a_cpu_is_said_to_gain_little(compiler: Compiler, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(DetectionTask(ColourDetector(), compile_loss=True), write_colours(tmp_path))
    assert "compile_loss: made for GPUs; on a CPU the steps may take longer than without it" in caplog.messages


def test_what_cannot_be_compiled_is_said(compiler: Compiler) -> None:
    compiler.broken = True
    with pytest.raises(ConfigError, match=r"(?s)torch.compile failed, train without it: .*no compiler here"):
        compiled(ColourDetector().loss)(scene())


def test_what_is_wrong_with_the_batch_is_said_as_ever(compiler: Compiler) -> None:
    ours = FastRCNN(FPN(SmallBackbone(), 16), 3, FastRCNNHeads(box_head=TwoMLPHead(16)))
    with pytest.raises(DetsegError, match="proposals"):
        compiled(ours.loss)(scene())
