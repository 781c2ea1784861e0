"""What holds for every network for segmentation. A new one gets all of it from a subclass of a few lines."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from torch.utils._pytree import tree_map

from detseg.configurable import from_config, to_config
from detseg.models import Segmenter
from detseg.structures import IGNORE_INDEX, Batch, Instances
from tests.models.tester import overfit

CLASSES = 3
SIZES = ((96, 96), (70, 84))


def scene() -> Batch:
    """Two images of different sizes: a noisy ground, and a rectangle of each other class in its colour."""
    random = torch.Generator().manual_seed(0)
    images = torch.zeros(2, 3, 96, 96, dtype=torch.uint8)
    semantic = torch.full((2, 96, 96), IGNORE_INDEX)
    for row, (height, width) in enumerate(SIZES):
        images[row, :, :height, :width] = torch.randint(100, 140, (3, height, width), generator=random)
        semantic[row, :height, :width] = 0
        for label, (x1, y1, x2, y2) in ((1, (8, 10, 50, 36)), (2, (20, 40, 76, 66))):
            images[row, :, y1:y2, x1:x2] = 0
            images[row, label, y1:y2, x1:x2] = 255
            semantic[row, y1:y2, x1:x2] = label
    sizes = torch.tensor(SIZES)
    nothing = Instances(torch.zeros(2, 1, 4), torch.zeros(2, 1, dtype=torch.bool), torch.zeros(2, 1, dtype=torch.int64))
    return Batch(images, sizes, nothing, torch.arange(2), sizes, semantic=semantic)


def rows(batch: Batch, chosen: list[int]) -> Batch:
    return tree_map(lambda value: value if value is None else value[chosen], batch)


def right(model: Segmenter, batch: Batch) -> float:
    """The share of the pixels that are not void which get their class."""
    assert batch.semantic is not None
    with torch.no_grad():
        found = model.eval()(batch.images, batch.image_sizes).argmax(dim=1)
    valid = batch.semantic != IGNORE_INDEX
    return float((found == batch.semantic)[valid].float().mean())


class SegmenterTester:
    @classmethod
    def make(cls, **arguments: Any) -> Segmenter:
        """A small network of ``CLASSES`` classes that learns ``scene()`` in 100 steps."""
        raise NotImplementedError

    @pytest.fixture
    def model(self) -> Segmenter:
        torch.manual_seed(0)
        model = self.make()
        with torch.no_grad():
            for name, value in model.named_parameters():
                if name.startswith("scores."):
                    value.normal_(std=0.1)  # or everything would be zero
        return model

    @torch.no_grad()
    @pytest.mark.parametrize("size", [(96, 96), (64, 100), (33, 75)])
    def test_logits_have_the_size_of_the_images(self, model: Segmenter, size: tuple[int, int]) -> None:
        images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
        logits = model.eval()(images)
        assert logits.shape == (2, CLASSES, *size)
        assert_close(model(images, torch.tensor([size, size])), logits)

    @torch.no_grad()
    def test_padding_does_not_matter(self, model: Segmenter) -> None:
        batch = scene()
        other = batch.images.clone()
        other[1, :, SIZES[1][0] :] = 200
        model.eval()
        assert torch.equal(model(batch.images, batch.image_sizes), model(other, batch.image_sizes))
        alone = model(batch.images[1:], batch.image_sizes[1:])
        assert_close(model(batch.images, batch.image_sizes)[1:], alone, rtol=1e-4, atol=1e-5)

    def test_it_learns_two_images(self) -> None:
        torch.manual_seed(0)
        model, batch = self.make(), scene()
        overfit(model.train(), batch, steps=100)
        assert right(model, batch) > 0.97

    @pytest.mark.parametrize("criterion", ["cross_entropy", "focal", "dice"])
    def test_a_batch_that_is_all_void_changes_nothing(self, criterion: str) -> None:
        model, batch = self.make(criterion=criterion), scene()
        losses = model.loss(batch._replace(semantic=torch.full_like(batch.semantic, IGNORE_INDEX)))
        assert all(loss.item() == 0 for loss in losses.values())
        torch.stack(list(losses.values())).sum().backward()
        for name, value in model.named_parameters():
            if value.requires_grad:
                assert value.grad is not None, name
                assert not value.grad.any(), name

    def test_loss_is_that_of_pytorch(self, model: Segmenter) -> None:
        batch = scene()
        model.eval()
        losses, logits = model.validate(batch)
        assert_close(logits, model(batch.images, batch.image_sizes))
        expected = torch.nn.functional.cross_entropy(logits, batch.semantic, ignore_index=IGNORE_INDEX)
        assert_close(losses["loss_pixels"], expected)
        assert {name: loss.item() for name, loss in model.loss(batch).items()} == pytest.approx(
            {name: loss.item() for name, loss in losses.items()}
        )
        model.class_weights.copy_(torch.tensor([1.0, 5.0, 0.5]))
        weighted = torch.nn.functional.cross_entropy(
            logits, batch.semantic, torch.tensor([1.0, 5.0, 0.5]), ignore_index=IGNORE_INDEX
        )
        assert_close(model.loss(batch)["loss_pixels"], weighted)

    def test_recipe_and_state_round_trip(self, model: Segmenter) -> None:
        copied = from_config(json.loads(json.dumps(to_config(model))))
        copied.load_state_dict(model.state_dict())
        batch = scene()
        with torch.no_grad():
            assert torch.equal(copied.eval()(batch.images), model.eval()(batch.images))

    @torch.no_grad()
    def test_compiles_into_one_graph(self, model: Segmenter) -> None:
        torch.compiler.reset()
        batch = scene()
        model.eval()
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        assert_close(
            compiled(batch.images, batch.image_sizes), model(batch.images, batch.image_sizes), rtol=1e-4, atol=1e-4
        )
