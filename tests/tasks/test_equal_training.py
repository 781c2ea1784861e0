"""A training by the task and one of torchvision's network by a plain loop: on equal draws the weights stay equal.

In double precision, so that rounding decides nothing.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from lightning.pytorch import Trainer, seed_everything
from PIL import Image
from torch import Tensor

from detseg.data import RandomHorizontalFlip, Resize
from detseg.modules import BalancedSampler
from detseg.weights.torchvision import to_torchvision
from tests.colours import SIDE, colours, write_colours
from tests.training import TRAINING_ONLY

TOOLS = Path(__file__).parents[2] / "tools"
BATCH, EPOCHS = 2, 2  # of ten images: ten steps
ANCHORS, REGIONS = 1, 2


class Draws:
    """Chooses candidates by the step, the image, and the rank among the positive or the negative ones.

    Both sides list the same candidates in the same order, but not at the same positions.
    """

    def __init__(self, stage: int, count: int, positive_fraction: float) -> None:
        self.stage, self.count, self.quota, self.step = stage, count, int(count * positive_fraction), 0

    def __call__(self, positive: Iterable[Tensor], negative: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return the indices of positives and of negatives among the candidates (A,) of each image of the next step."""
        self.step += 1
        chosen = []
        for image, candidates in enumerate(zip(positive, negative, strict=True)):
            generator = torch.Generator().manual_seed(1000 * self.step + 10 * image + self.stage)
            indices: list[Tensor] = []
            for mask in candidates:
                limit = self.count - len(indices[0]) if indices else self.quota
                order = torch.randperm(int(mask.sum()), generator=generator)
                indices.append(mask.nonzero()[order[:limit], 0])
            chosen.append((indices[0], indices[1]))
        return chosen


class OurSampler(BalancedSampler):
    def __init__(self, stage: int, sampler: BalancedSampler) -> None:
        super().__init__(sampler.batch_size_per_image, sampler.positive_fraction)
        self.draws = Draws(stage, sampler.batch_size_per_image, sampler.positive_fraction)

    def __call__(self, positive: Tensor, negative: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        size = min(self.batch_size_per_image, positive.shape[1])
        indices = torch.zeros(len(positive), size, dtype=torch.int64)
        valid = torch.zeros_like(indices, dtype=torch.bool)
        for image, chosen in enumerate(self.draws(positive, negative)):
            both = torch.cat(chosen)
            indices[image, : len(both)], valid[image, : len(both)] = both, True
        return indices, valid


class TheirSampler:
    def __init__(self, stage: int, sampler: Any) -> None:
        self.draws = Draws(stage, sampler.batch_size_per_image, sampler.positive_fraction)

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        chosen = self.draws([each >= 1 for each in labels], [each == 0 for each in labels])
        masks = [[torch.zeros_like(each, dtype=torch.uint8) for each in labels] for _ in range(2)]
        for image, sides in enumerate(chosen):
            for mask, indices in zip(masks, sides, strict=True):
                mask[image][indices] = 1
        return masks[0], masks[1]


def test_weights_stay_those_of_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Mask R-CNN, which has all losses; each side makes other targets of masks, so that ours learns from theirs."""
    monkeypatch.syspath_prepend(str(TOOLS))
    arms: Any = importlib.import_module("comparison.arms")
    networks: Any = importlib.import_module("comparison.networks")
    training: Any = importlib.import_module("comparison.training")
    monkeypatch.setattr(networks, "CHANNELS", 16)
    monkeypatch.setattr(training, "images_of", lambda batch: list(batch.images.double() / 255))  # none is padded
    seed_everything(0)
    torch.save(torchvision.models.mobilenet_v2().state_dict(), tmp_path / "weights.pth")
    root = write_colours(tmp_path / "colours", train=10)
    generator = np.random.default_rng(0)
    for file in (root / "train").iterdir():  # noise, so that no two regions look the same
        pixels = np.asarray(Image.open(file)) * 0.6 + generator.integers(0, 90, (SIDE, SIDE, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(file)
    data = colours(root, transforms=[Resize(SIDE, SIDE), RandomHorizontalFlip()], batch_size=BATCH, masks="all")
    arm, weights = arms.MASK_ARMS["torchvision_targets"], str(tmp_path / "weights.pth")
    ours = networks.network(arm, data.num_classes, masks=True, weights=weights, regions=8).double()
    theirs = networks.torchvision_network(ours).double()
    body = ours.backbone.backbone  # its constants were made in single precision
    body.mean, body.std = (
        255 * torch.tensor(values, dtype=torch.float64).view(3, 1, 1)
        for values in (theirs.transform.image_mean, theirs.transform.image_std)
    )
    ours.rpn.sampler = OurSampler(ANCHORS, ours.rpn.sampler)
    ours.roi_heads.sampler = OurSampler(REGIONS, ours.roi_heads.sampler)
    theirs.rpn.fg_bg_sampler = TheirSampler(ANCHORS, theirs.rpn.fg_bg_sampler)
    theirs.roi_heads.fg_bg_sampler = TheirSampler(REGIONS, theirs.roi_heads.fg_bg_sampler)
    assign = theirs.rpn.assign_targets_to_anchors

    def assign_in_double(*arguments: Any) -> tuple[list[Tensor], list[Tensor]]:
        labels, boxes = assign(*arguments)
        return [each.double() for each in labels], boxes  # the loss is computed in the precision of the labels

    theirs.rpn.assign_targets_to_anchors = assign_in_double
    start = copy.deepcopy(theirs.state_dict())

    task = training.make_task(ours, BATCH)
    Trainer(precision="64-true", max_epochs=EPOCHS, default_root_dir=tmp_path, **TRAINING_ONLY).fit(task, data)
    training.train_torchvision(theirs, data, EPOCHS)

    found, expected = to_torchvision(ours.state_dict()), theirs.state_dict()
    apart = travelled = 0.0
    for name, value in expected.items():
        own, before = found[name], start[name]
        if name.startswith("roi_heads.box_predictor.bbox_pred."):  # the box of the background is read by nobody
            own, value, before = own[4:], value[4:], before[4:]
        apart += float((own - value).square().sum())
        travelled += float((value - before).square().sum())
    assert travelled > 1e-4
    assert apart**0.5 < 1e-10 * travelled**0.5
