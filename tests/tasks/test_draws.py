"""One rank, and two of half the batch: every image draws the same anchors and regions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.testing import assert_close

from detseg.data import RandomHorizontalFlip, Resize
from detseg.models import FasterRCNN
from detseg.modules import FPN, RPN, BalancedSampler, RoIHeads, TwoMLPHead
from detseg.structures import Batch
from detseg.tasks import DetectionTask
from tests.colours import colours, write_colours
from tests.models.detectors import SmallBackbone
from tests.ranks import on_two_ranks
from tests.training import TRAINING_ONLY


class Record(Callback):
    """Keep what the samplers choose for each image, in the order of the batches, and the losses."""

    def __init__(self) -> None:
        self.draws: dict[tuple[int, int], list[Tensor]] = {}  # by step and image
        self.losses: list[Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Batch, index: int) -> None:
        self.images = [(trainer.global_step, row) for row in batch.image_index.tolist()]

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Batch, index: int) -> None:
        self.losses.append(outputs["loss"].detach())

    def watch(self, sampler: BalancedSampler) -> BalancedSampler:
        class Watched(BalancedSampler):
            def __call__(_, *candidates: Any) -> tuple[Tensor, Tensor]:
                chosen = sampler(*candidates)
                for image, indices in zip(self.images, chosen[0], strict=True):
                    self.draws.setdefault(image, []).append(indices)
                return chosen

        return Watched(sampler.batch_size_per_image, sampler.positive_fraction)


def train(folder: Path, root: Path, devices: int) -> None:
    """Train for two epochs of two steps; write the draws and losses of the rank."""
    lightning.seed_everything(3, verbose=False)
    record = Record()
    rpn = RPN(sampler=record.watch(BalancedSampler(16, 0.5)), post_nms_top_n=(60, 50))
    heads = RoIHeads(box_head=TwoMLPHead(16), sampler=record.watch(BalancedSampler(8, 0.25)))
    backbone = SmallBackbone()
    for block in backbone.blocks:  # statistics of a batch would differ with its size
        block[1] = block[4] = nn.Identity()
    task = DetectionTask(FasterRCNN(FPN(backbone, 8), 3, rpn, heads), lr=0.01)
    data = colours(root, batch_size=4 // devices, transforms=[RandomHorizontalFlip(), Resize(64, 64)])
    options = {**TRAINING_ONLY, "devices": devices, "callbacks": [record]}
    trainer = Trainer(max_epochs=2, precision="64-true", **options)
    trainer.fit(task, data)
    torch.save((record.draws, record.losses), folder / f"{trainer.global_rank}_of_{devices}")


def test_two_ranks_draw_what_one_does(tmp_path: Path) -> None:
    root = write_colours(tmp_path / "colours", train=8)
    train(tmp_path, root, 1)
    on_two_ranks(train, tmp_path, root, 2)
    (alone, losses), *ranks = (torch.load(tmp_path / name) for name in ("0_of_1", "0_of_2", "1_of_2"))
    together = ranks[0][0] | ranks[1][0]
    assert len(alone) == 16
    assert alone.keys() == together.keys()
    for image, draws in alone.items():
        assert [each.tolist() for each in draws] == [each.tolist() for each in together[image]]
    assert_close(torch.stack(losses), torch.stack(ranks[0][1]).add(torch.stack(ranks[1][1])) / 2)
    epochs = [[draws for (step, row), draws in sorted(alone.items()) if row == 0][part] for part in (0, 1)]
    assert not torch.equal(epochs[0][0], epochs[1][0])  # drawn anew in each epoch
