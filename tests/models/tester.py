"""What holds for every detector. A new one gets all of it from a subclass of a few lines, as in test_faster_rcnn.py."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torchvision.ops import box_iou

from detseg.configurable import from_config, to_config
from detseg.models import Detector, Segmenter
from detseg.ops.boxes import clip
from detseg.structures import Batch, Instances

CLASSES = 3
SIDE = 96
SIZES = ((SIDE, SIDE), (80, 72))
OBJECTS = (
    (((8, 10, 50, 42), 0), ((52, 40, 90, 88), 1)),
    (((20, 36, 56, 76), 2),),
)


def scene(proposals: bool = False, masks: bool = False) -> Batch:
    """Two images of different sizes with one-coloured rectangles on noise; one slot of the targets is padding.

    ``proposals``: the objects, moved and stretched a little, among boxes at random, come with them. ``masks``: the mask
    of an object, which comes with its box, is its left half."""
    random = torch.Generator().manual_seed(0)
    images = torch.zeros(2, 3, SIDE, SIDE, dtype=torch.uint8)
    boxes, labels = torch.zeros(2, 2, 4), torch.zeros(2, 2, dtype=torch.int64)
    valid = torch.zeros(2, 2, dtype=torch.bool)
    for row, ((height, width), objects) in enumerate(zip(SIZES, OBJECTS, strict=True)):
        images[row, :, :height, :width] = torch.randint(100, 140, (3, height, width), generator=random)
        for slot, (box, label) in enumerate(objects):
            x1, y1, x2, y2 = box
            images[row, :, y1:y2, x1:x2] = 0
            images[row, label, y1:y2, x1:x2] = 255
            boxes[row, slot], labels[row, slot], valid[row, slot] = torch.tensor(box), label, True
    sizes = torch.tensor(SIZES)
    targets = Instances(boxes, valid, labels)
    if masks:
        halves = torch.zeros(2, 2, 32, 32, dtype=torch.uint8)
        halves[..., :16] = 255
        targets = targets._replace(masks=torch.where(valid[..., None, None], halves, 0))
    batch = Batch(images, sizes, targets, torch.arange(2), sizes)
    return batch._replace(proposals=jittered(batch.targets, sizes, random)) if proposals else batch


def jittered(targets: Instances, sizes: Tensor, random: torch.Generator) -> Instances:
    """Each object eight times, off by up to 5 pixels a side, and 40 boxes at random inside the image."""
    near = targets.boxes.repeat(1, 8, 1)
    near = near + torch.randint(-5, 6, near.shape, generator=random)
    corners = torch.rand(len(sizes), 40, 2, 2, generator=random).sort(dim=2).values
    far = (corners * sizes.flip(1)[:, None, None]).flatten(2)
    boxes = torch.cat([near, far], dim=1)
    valid = torch.cat([targets.valid.repeat(1, 8), torch.ones(far.shape[:2], dtype=torch.bool)], dim=1)
    return Instances(clip(boxes, sizes), valid)


def detect(model: Detector, batch: Batch) -> Instances:
    return model(batch.images, batch.image_sizes, batch.proposals)


def rows(batch: Batch, chosen: list[int]) -> Batch:
    """The same batch with other images: every value that there is has one row an image."""
    return tree_map(lambda value: value if value is None else value[chosen], batch)


def with_padding(instances: Instances) -> Instances:
    """The same objects behind a slot of padding that holds what nobody may read."""
    garbage = Instances(boxes=torch.nan, valid=False, labels=-7, scores=torch.nan, masks=77)
    return Instances(
        *(
            None if value is None else torch.cat([torch.full_like(value[:, :1], padding), value], dim=1)
            for value, padding in zip(instances, garbage, strict=True)
        )
    )


def without_objects(batch: Batch, chosen: list[int]) -> Batch:
    valid = batch.targets.valid.clone()
    valid[chosen] = False
    return batch._replace(targets=batch.targets._replace(valid=valid))


def backward(model: Detector | Segmenter, batch: Batch) -> dict[str, Tensor]:
    """The losses, whose gradients are then in the network."""
    model.zero_grad()
    losses = model.loss(batch)
    sum(losses.values()).backward()
    return {name: value.detach() for name, value in losses.items()}


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    return {name: value.grad for name, value in model.named_parameters() if value.requires_grad}


def overfit(model: Detector | Segmenter, batch: Batch, steps: int = 200, lr: float = 2e-3) -> None:
    """Train on one batch, with a learning rate that falls to zero, and settle the statistics of batch norm."""
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * min((step + 1) / 5, 1 - step / steps)
        backward(model, batch)
        optimizer.step()
    settle(model, batch)


@torch.no_grad()
def settle(model: nn.Module, batch: Batch) -> None:
    """Give batch norm the statistics of ``batch``; its running averages still hold those of earlier weights."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    model.loss(batch)


def assert_found(detections: Instances) -> None:
    """Each object of ``scene()`` is detected once with a score above one half, and nothing else is."""
    boxes, valid, labels, scores, _ = detections
    for row, objects in enumerate(OBJECTS):
        sure = valid[row] & (scores[row] > 0.5)
        expected = torch.tensor([box for box, _ in objects], dtype=torch.float32)
        assert sure.sum() == len(objects)
        overlap, detection = box_iou(expected, boxes[row, sure]).max(dim=1)
        assert overlap.min() > 0.75
        assert labels[row, sure][detection].tolist() == [label for _, label in objects]


class Operations(TorchDispatchMode):
    """Counts operations, and notes those for which, on a GPU, the host would wait for the device.

    They give as much as the data says, a number, or a tensor that the host has made.
    """

    WAITING = (
        "nonzero",
        "masked_select",
        "_local_scalar_dense",
        "is_nonzero",
        "equal",
        "_unique",
        "unique",
        "lift_fresh",
    )

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.waiting: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        self.count += 1
        by_truth = name.startswith("index") and any(
            value is not None and value.dtype in (torch.bool, torch.uint8)
            for values in args
            if isinstance(values, list | tuple)
            for value in values
            if value is None or isinstance(value, Tensor)
        )
        repeats = name == "repeat_interleave" and isinstance(args[0], Tensor)
        if name.startswith(self.WAITING) or by_truth or repeats:
            self.waiting.append(str(function))
        return function(*args, **(kwargs or {}))


class DetectorTester:
    needs_proposals = False  # whether they come with the images
    masks = False  # whether it finds masks
    exhaustive: dict[str, Any]  # arguments with which every candidate is drawn: the loss is not random

    @classmethod
    def make(cls, **arguments: Any) -> Detector:
        """A small detector of ``CLASSES`` classes that learns ``scene()`` in 200 steps."""
        raise NotImplementedError

    @pytest.fixture
    def batch(self) -> Batch:
        return scene(self.needs_proposals, self.masks)

    @pytest.fixture
    def model(self) -> Detector:
        """Batch norm in evaluation mode, so that images do not depend on each other; every candidate is drawn."""
        torch.manual_seed(0)
        return self.make(**self.exhaustive).eval()

    @pytest.fixture
    def exact(self, model) -> Detector:
        """In double precision, where rounding decides neither what is drawn nor which of two boxes is suppressed."""
        return model.double()

    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls) -> Detector:
        torch.manual_seed(0)
        model = cls.make().train()
        overfit(model, scene(model.needs_proposals, cls.masks))
        return model.eval()

    @torch.no_grad()
    def test_overfits_two_images(self, trained, batch) -> None:
        assert_found(detect(trained, batch))

    @torch.no_grad()
    def test_detections_lie_inside_the_image_best_first(self, trained, batch) -> None:
        model = copy.deepcopy(trained)
        getattr(model, "roi_heads", model).postprocessor.score_threshold = 0.0
        boxes, valid, labels, scores, _ = detect(model, batch)
        assert valid.sum() > 10
        for row, (height, width) in enumerate(SIZES):
            own = boxes[row, valid[row]]
            assert own.min() >= 0
            assert own[:, 0::2].max() <= width
            assert own[:, 1::2].max() <= height
            assert ((own[:, 2:] - own[:, :2]) > 0).all()
            assert torch.equal(scores[row], scores[row].sort(descending=True).values)
        assert labels.min() >= 0
        assert labels.max() < CLASSES

    @torch.no_grad()
    def test_empty_slots_come_last_and_are_zero(self, trained, batch) -> None:
        boxes, valid, _, scores, _ = detect(trained, batch)
        assert torch.equal(valid, valid.sort(dim=1, descending=True, stable=True).values)
        assert not valid.all()
        assert not boxes[~valid].any()
        assert not scores[~valid].any()

    @torch.no_grad()
    def test_batch_equals_one_by_one(self, trained, batch) -> None:
        exact = copy.deepcopy(trained).double()
        together = detect(exact, batch)
        for row in range(2):
            alone = detect(exact, rows(batch, [row]))
            assert alone.valid.any()
            assert torch.equal(alone.valid[0], together.valid[row])
            assert torch.equal(alone.labels[0, alone.valid[0]], together.labels[row, together.valid[row]])
            assert_close(alone.boxes[0], together.boxes[row], rtol=0, atol=1e-2)
            assert_close(alone.scores[0], together.scores[row], rtol=0, atol=1e-4)

    @torch.no_grad()
    def test_pixels_outside_the_sizes_do_not_matter(self, trained, batch) -> None:
        other = batch.images.clone()
        other[1, :, SIZES[1][0] :] = 255
        other[1, :, :, SIZES[1][1] :] = 255
        ours, same = detect(trained, batch), detect(trained, batch._replace(images=other))
        assert torch.equal(ours.boxes, same.boxes)
        assert torch.equal(ours.scores, same.scores)

    def test_types_do_not_depend_on_the_mode(self, batch) -> None:
        model = self.make()
        results = []
        for mode in (True, False):
            model.train(mode)
            losses, detections = model.loss(batch), detect(model, batch)
            assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
            results.append((list(losses), type(detections), [value is None for value in detections]))
        assert results[0] == results[1]

    @torch.no_grad()
    def test_validation_gives_losses_and_detections_at_once(self, model, batch) -> None:
        losses, found = model.validate(batch)
        expected = detect(model, batch)
        assert_close(losses, model.loss(batch))
        assert torch.equal(found.boxes, expected.boxes)
        assert torch.equal(found.valid, expected.valid)

    def test_a_batch_twice_has_the_loss_of_once(self, exact, batch) -> None:
        once, twice = exact.loss(batch), exact.loss(rows(batch, [0, 1, 0, 1]))
        for name in once:
            assert_close(twice[name], once[name])

    def test_padding_of_the_targets_changes_nothing(self, exact, batch) -> None:
        losses = backward(exact, batch)
        expected = copy.deepcopy(gradients(exact))
        padded = backward(exact, batch._replace(targets=with_padding(batch.targets)))
        for name, loss in losses.items():
            assert loss > 0
            assert_close(padded[name], loss, rtol=1e-5, atol=1e-7)
        for name, gradient in gradients(exact).items():
            assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5 * float(expected[name].abs().max()), msg=name)

    def test_order_of_the_targets_changes_nothing(self, exact, batch) -> None:
        turned = batch._replace(
            targets=tree_map(lambda value: value if value is None else value.flip(1), batch.targets)
        )
        losses, others = exact.loss(batch), exact.loss(turned)
        for name in losses:
            assert_close(losses[name], others[name])

    @pytest.mark.parametrize("empty", [[0], [0, 1]])
    @pytest.mark.parametrize("mode", [True, False])
    def test_images_without_objects_train(self, model, batch, empty, mode) -> None:
        nothing = without_objects(batch, empty)
        nothing.targets.boxes[empty] = torch.nan
        losses = backward(model.train(mode), nothing)
        assert all(loss.isfinite() for loss in losses.values())
        for name, gradient in gradients(model).items():
            assert gradient is not None, name
            assert gradient.isfinite().all(), name

    def test_a_batch_without_images_has_a_loss_and_detections(self, model, batch) -> None:
        """The share of a process for which no image is left."""
        nothing = rows(batch, [])
        assert not any(backward(model, nothing).values())
        assert not any(gradient is None or gradient.any() for gradient in gradients(model).values())
        full, empty = (detect(model, images) for images in (batch, nothing))
        assert [None if value is None else value.shape[1:] for value in empty] == [
            None if value is None else value.shape[1:] for value in full
        ]
        assert len(empty.boxes) == 0

    def test_recipe_round_trip(self, trained, batch) -> None:
        rebuilt = from_config(json.loads(json.dumps(to_config(trained)))).eval()
        rebuilt.load_state_dict(trained.state_dict())
        with torch.no_grad():
            ours, same = detect(trained, batch), detect(rebuilt, batch)
        assert torch.equal(ours.boxes, same.boxes)
        assert torch.equal(ours.labels, same.labels)

    def test_half_precision_learns_and_detects(self, trained, batch) -> None:
        """Boxes of one proposal an object are compared: rounding decides which of several survives suppression."""
        boxes, valid, *_ = scene(proposals=True).proposals
        count = batch.targets.valid.shape[1]
        single = batch._replace(proposals=Instances(boxes[:, :count], valid[:, :count]))  # each object once
        with torch.autocast("cpu", torch.bfloat16):
            losses = trained.loss(batch)
            assert_found(detect(trained, batch))
            rough = detect(trained, single)
        assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
        exact = detect(trained, single)
        for row, objects in enumerate(OBJECTS):
            count = len(objects)
            overlap = box_iou(exact.boxes[row, :count], rough.boxes[row, :count]).amax(dim=1)
            assert overlap.min() > 0.9

    def test_training_compiles_into_one_graph(self, model, batch) -> None:
        torch.compiler.reset()
        expected = model.loss(batch)
        for name, loss in torch.compile(model.loss, fullgraph=True, backend="eager")(batch).items():
            assert_close(loss, expected[name], rtol=1e-4, atol=1e-5)

    def test_training_does_not_wait_for_the_device(self, model, batch, monkeypatch) -> None:
        """Forward, loss and backward; what suppression asks for is its own affair, and one operation here."""
        # Padding is trimmed on a CPU alone, which waits for nobody.
        for module in (type(model).__module__, "detseg.modules.roi_heads"):
            monkeypatch.setattr(f"{module}.drop_padding", lambda instances: instances, raising=False)
        with Operations() as operations:
            sum(model.loss(batch).values()).backward()
        assert operations.count > 100
        assert operations.waiting == []

    @pytest.mark.parametrize("mode", [True, False])
    def test_operations_do_not_grow_with_the_batch(self, model, batch, mode) -> None:
        counts = []
        for images in ([0], [0, 1], [0, 1, 0, 1]):
            some = rows(batch, images)
            model.train(mode).zero_grad()
            with Operations() as operations:
                sum(model.loss(some).values()).backward()
            counts.append(operations.count)
        assert counts[0] <= counts[1] == counts[2], counts  # of one image, fewer copies

    @torch.no_grad()
    def test_inference_compiles_into_one_graph(self, trained, batch) -> None:
        torch.compiler.reset()
        expected = detect(trained, batch)
        boxes = torch.compile(trained, fullgraph=True, backend="eager")(
            batch.images, batch.image_sizes, batch.proposals
        ).boxes
        assert_close(boxes, expected.boxes, rtol=0, atol=1e-2)
