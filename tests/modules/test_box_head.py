from __future__ import annotations

import json
import math

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.testing import assert_close

from detseg.errors import CheckpointError
from detseg.modules import Conv5Head, TwoFCHead
from detseg.modules.box_head import BoxHead, sample_regions
from detseg.recipe import build, recipe
from detseg.structures import Instances

CLASSES = 3
SIZES = torch.tensor([(100, 100)])


def instances(*boxes: list[float], labels: list[int] | None = None) -> Instances:
    """The objects of one image."""
    valid = torch.ones(1, len(boxes), dtype=torch.bool)
    return Instances(torch.tensor([boxes]).view(1, -1, 4), valid, None if labels is None else torch.tensor([labels]))


@pytest.fixture
def head() -> BoxHead:
    return BoxHead(TwoFCHead(in_channels=1, size=1, channels=1), CLASSES)


def detect(head: BoxHead, probabilities: list[list[float]], regions: Instances, **changed: float) -> Instances:
    """Detections where the box of every class is the region itself, save for what the test sets in ``changed``."""
    logits = torch.tensor(probabilities).log()
    settings = {"score_threshold": 0.05, "nms": 0.5, "candidates": 100, "limit": 10, **changed}
    return head.detect(logits, torch.zeros(len(logits), CLASSES, 4), regions, SIZES, **settings)


def found(detections: Instances) -> list[tuple[int, float]]:
    labels, scores = detections.labels[detections.valid], detections.scores[detections.valid]
    return [(label, round(score, 4)) for label, score in zip(labels.tolist(), scores.tolist(), strict=True)]


class TestSampleRegions:
    truth = instances([0, 0, 40, 40], [60, 60, 90, 90], labels=[2, 0])
    proposals = instances([0, 0, 40, 30], [60, 60, 90, 70], [50, 0, 60, 10])

    def draw(self, low: float = 0.0, count: int = 100, fraction: float = 1.0) -> tuple[Instances, Tensor]:
        return sample_regions(self.proposals, self.truth, CLASSES, 0.5, low, count, fraction)

    def test_labels_and_boxes_are_those_of_the_ground_truth_they_overlap(self) -> None:
        regions, truth = self.draw()
        drawn = {
            tuple(box): (label, own)
            for box, label, own in zip(
                *(value[0].tolist() for value in (regions.boxes, regions.labels, truth)), strict=True
            )
        }
        assert drawn[0, 0, 40, 30] == (2, [0, 0, 40, 40])
        assert drawn[60, 60, 90, 70][0] == CLASSES  # IoU of 1/3: background
        assert drawn[50, 0, 60, 10][0] == CLASSES

    def test_ground_truth_is_among_the_regions(self) -> None:
        regions, _ = self.draw()
        for box, label in zip(self.truth.boxes[0], self.truth.labels[0], strict=True):
            assert regions.labels[0, (regions.boxes[0] == box).all(dim=1)] == label

    def test_background_needs_the_lower_bound(self) -> None:
        """Fast R-CNN, section 2.3: IoU in [0.1, 0.5); the proposal that touches nothing is left out."""
        regions, _ = self.draw(low=0.1)
        boxes = regions.boxes[regions.valid].tolist()
        assert [50, 0, 60, 10] not in boxes
        assert [60, 60, 90, 70] in boxes

    def test_number_and_share_of_objects(self) -> None:
        regions, _ = self.draw(count=4, fraction=0.25)
        assert regions.valid.tolist() == [[True, True, True, False]]
        assert (regions.labels[0] < CLASSES).tolist()[:3] == [True, False, False]

    def test_padding_is_drawn_by_nobody(self) -> None:
        garbage = torch.full((1, 2, 4), torch.nan)
        nothing = torch.zeros(1, 2, dtype=torch.bool)
        padded = [
            Instances(
                torch.cat([real.boxes, garbage], 1),
                torch.cat([real.valid, nothing], 1),
                None if real.labels is None else torch.cat([real.labels, torch.full((1, 2), 99)], 1),
            )
            for real in (self.proposals, self.truth)
        ]
        regions, _ = sample_regions(*padded, CLASSES, 0.5, 0.0, 100, 1.0)
        assert regions.valid.sum() == 5
        assert regions.boxes[regions.valid].isfinite().all()

    def test_an_image_without_objects_gives_background(self) -> None:
        nothing = self.truth._replace(valid=torch.zeros(1, 2, dtype=torch.bool))
        regions, _ = sample_regions(self.proposals, nothing, CLASSES, 0.5, 0.0, 100, 0.25)
        assert regions.labels[regions.valid].tolist() == [CLASSES] * 3


def test_loss_is_the_papers(head) -> None:
    """An object of class 1 whose box is off by one unit of the x target, a background region and a padding slot."""
    regions = Instances(
        torch.tensor([[[0.0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 0, 0]]]),
        torch.tensor([[True, True, False]]),
        torch.tensor([[1, CLASSES, 0]]),
    )
    truth = torch.tensor([[[1.0, 0, 11, 10], [0, 0, 1, 1], [torch.nan] * 4]])
    probabilities = torch.tensor([[0.1, 0.6, 0.1, 0.2], [0.2, 0.1, 0.2, 0.5], [1, 1, 1, 1]])
    deltas = torch.full((3, CLASSES, 4), 7.0)
    deltas[0, 1] = 0  # where 10 * 0.1 is right
    losses = head.loss(probabilities.log(), deltas, regions, truth)
    assert losses["box_class"].item() == pytest.approx(-(math.log(0.6) + math.log(0.5)) / 2, rel=1e-5)
    assert losses["box_delta"].item() == pytest.approx((1 - 0.5 / 9) / 2, rel=1e-5)


def test_every_class_above_the_threshold_is_detected(head) -> None:
    detections = detect(head, [[0.5, 0.04, 0.3, 0.16]], instances([10, 10, 30, 30]))
    assert found(detections) == [(0, 0.5), (2, 0.3)]


def test_background_is_never_detected(head) -> None:
    assert not detect(head, [[0.01, 0.01, 0.01, 0.97]], instances([10, 10, 30, 30])).valid.any()


def test_suppression_is_within_a_class(head) -> None:
    regions = instances([10, 10, 30, 30], [10, 10, 30, 29])
    detections = detect(head, [[0.6, 0.01, 0.3, 0.09], [0.4, 0.5, 0.01, 0.09]], regions)
    assert found(detections) == [(0, 0.6), (1, 0.5), (2, 0.3)]


def test_candidates_and_limit(head) -> None:
    regions = instances([0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10])
    probabilities = [[0.9, 0.1, 0, 0], [0.7, 0.2, 0, 0.1], [0.6, 0.4, 0, 0]]
    assert found(detect(head, probabilities, regions, candidates=4)) == [(0, 0.9), (0, 0.7), (0, 0.6), (1, 0.4)]
    assert found(detect(head, probabilities, regions, limit=2)) == [(0, 0.9), (0, 0.7)]


def test_padding_is_not_detected(head) -> None:
    regions = instances([0, 0, 10, 10], [20, 0, 30, 10])._replace(valid=torch.tensor([[False, True]]))
    assert found(detect(head, [[0.9, 0.1, 0, 0], [0, 0.8, 0, 0.2]], regions)) == [(1, 0.8)]


def test_each_class_moves_its_own_box(head) -> None:
    deltas = torch.zeros(1, CLASSES, 4)
    deltas[0, 1, 0] = 5  # half a width to the right
    deltas[0, 2, 3] = 5 * math.log(2)  # twice as high
    logits = torch.tensor([[0.5, 0.3, 0.2, 1e-9]]).log()
    detections = head.detect(logits, deltas, instances([20, 20, 40, 40]), SIZES, 0.05, 0.5, 10, 3)
    assert_close(
        detections.boxes[0], torch.tensor([[20.0, 20, 40, 40], [30, 20, 50, 40], [20, 10, 40, 50]]), rtol=0, atol=1e-4
    )


def test_boxes_are_clipped_and_dropped_outside(head) -> None:
    detections = detect(head, [[0.9, 0, 0, 0.1], [0.8, 0, 0, 0.2]], instances([90, -5, 120, 20], [101, 0, 120, 20]))
    assert detections.boxes[detections.valid].tolist() == [[90, 0, 100, 20]]


def test_a_new_head_is_undecided() -> None:
    """Fast R-CNN, section 2.3: the layers start near zero."""
    head = BoxHead(TwoFCHead(4, size=2, channels=8), CLASSES)
    logits, deltas = head(torch.randn(5, 4, 2, 2))
    assert (logits.shape, deltas.shape) == ((5, CLASSES + 1), (5, CLASSES, 4))
    assert_close(logits.softmax(dim=1), torch.full((5, CLASSES + 1), 1 / (CLASSES + 1)), rtol=0, atol=0.05)


def test_two_fc_head_is_that_of_torchvision() -> None:
    theirs = torchvision.models.detection.faster_rcnn.TwoMLPHead(4 * 9, 8)
    ours = TwoFCHead(4, size=3, channels=8)
    ours.load_state_dict(theirs.state_dict())
    features = torch.randn(5, 4, 3, 3)
    assert_close(ours(features), theirs(features))


class TestConv5Head:
    @pytest.fixture(scope="class")
    @classmethod
    def theirs(cls) -> nn.Module:
        return torchvision.models.resnet50(weights=None).eval()

    @pytest.fixture(scope="class")
    @classmethod
    def weights(cls, theirs, tmp_path_factory) -> str:
        path = tmp_path_factory.mktemp("weights") / "weights.pth"
        torch.save(theirs.state_dict(), path)
        return str(path)

    @torch.no_grad()
    def test_is_the_end_of_torchvisions_network(self, theirs, weights) -> None:
        features = torch.rand(2, 1024, 14, 14)
        expected = theirs.avgpool(theirs.layer4(features)).flatten(1)
        assert_close(Conv5Head(weights=weights).eval()(features), expected, rtol=1e-4, atol=1e-4)

    def test_recipe_gives_the_same_architecture_without_the_weights(self, weights) -> None:
        head = Conv5Head(weights=weights)
        description = json.dumps(recipe(head))
        assert weights not in description
        rebuilt = build(json.loads(description))
        assert {name: type(module) for name, module in rebuilt.named_modules()} == {
            name: type(module) for name, module in head.named_modules()
        }

    def test_weights_that_do_not_exist(self) -> None:
        with pytest.raises(CheckpointError, match="nowhere"):
            Conv5Head(weights="nowhere.pth")
