from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch.nn.functional import pad
from torch.testing import assert_close
from torch.utils._pytree import tree_map

from detseg.errors import ConfigError
from detseg.models import FasterRCNN
from detseg.modules import FPN
from detseg.modules.backbones import ResNet
from detseg.modules.box_head import TwoFCHead
from detseg.structures import Batch
from detseg.tasks import Detection
from detseg.tasks.compilation import compiled
from tests.colours import ColourDetector, colours, write_colours
from tests.models.tester import scene


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is compiled: each graph once, and run as it is, for a real compiler takes a minute."""
    made: list[Any] = []

    def backend(graph: Any, _: Any) -> Callable[..., Any]:
        made.append(graph)
        return graph.forward

    def without_mode(*arguments: Any, mode: str, **settings: Any) -> Any:
        return torch_compile(*arguments, backend=backend, **settings)

    torch_compile = torch.compile
    monkeypatch.setattr(torch, "compile", without_mode)
    torch.compiler.reset()
    return made


def network() -> FasterRCNN:
    seed_everything(0, verbose=False)
    return FasterRCNN(FPN(ResNet("resnet18", stages=[4, 5]), 16), 3, TwoFCHead(16, channels=16), samples=8)


def more_objects(batch: Batch, count: int) -> Batch:
    def more(value: torch.Tensor) -> torch.Tensor:
        return pad(value, (0, 0) * (value.ndim - 2) + (0, count - value.shape[1]))

    return batch._replace(targets=tree_map(lambda value: value if value is None else more(value), batch.targets))


def test_losses_are_the_same_and_shapes_of_images_alone_are_compiled_anew(graphs: list[Any]) -> None:
    ours, batch = network(), scene()
    loss = compiled(ours.loss)
    wider = batch._replace(images=pad(batch.images, (0, 32)))
    for number, one in enumerate((batch, more_objects(batch, 4), more_objects(batch, 16), wider, batch)):
        torch.manual_seed(0)
        expected = ours.loss(one)
        torch.manual_seed(0)
        assert_close(loss(one), expected, rtol=1e-5, atol=1e-6)
        assert len(graphs) == (2 if number >= 3 else 1)


def test_a_training_gives_the_same_weights(graphs: list[Any], tmp_path: Path) -> None:
    root = write_colours(tmp_path)
    found = []
    for compile_loss in (False, True):
        seed_everything(0, verbose=False)
        task = Detection(ColourDetector(), lr=0.1, compile_loss=compile_loss)
        trainer = Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            max_epochs=2,
            limit_val_batches=0,
        )
        trainer.fit(task, colours(root, batch_size=2))
        found.append(task.network.state_dict())
        assert bool(graphs) == compile_loss
    assert_close(found[1], found[0])
    assert found[0]["weight"].abs().min() > 0


def test_what_cannot_be_compiled_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", partial(_with_backend, torch.compile, broken))
    torch.compiler.reset()
    with pytest.raises(ConfigError, match=r"(?s)torch.compile failed, train without it: .*no compiler here"):
        compiled(network().loss)(scene())


def _with_backend(compile: Callable[..., Any], backend: Any, *arguments: Any, mode: str, **settings: Any) -> Any:
    return compile(*arguments, backend=backend, **settings)
