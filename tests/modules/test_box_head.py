from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.testing import assert_close

from detseg.configurable import from_config, to_config
from detseg.errors import CheckpointError
from detseg.modules import (
    BalancedSampler,
    BoxPredictor,
    ClassifierHead,
    ConvFCHead,
    Matcher,
    Postprocessor,
    Res5Head,
    RoIHeads,
    TwoMLPHead,
    svd_compress,
)
from detseg.modules.backbones import ConvNet, ResNet
from detseg.modules.box_head import class_loss
from detseg.structures import Instances

CLASSES = 3
SIZES = torch.tensor([(100, 100)])
VALID = torch.tensor([True, False, True, True, False, True])


def slots(*shape: int) -> Tensor:
    torch.manual_seed(0)
    return (3 * torch.randn(6, *shape)).requires_grad_()


def instances(*boxes: list[float], labels: list[int] | None = None) -> Instances:
    """The objects of one image."""
    valid = torch.ones(1, len(boxes), dtype=torch.bool)
    return Instances(torch.tensor([boxes]).view(1, -1, 4), valid, None if labels is None else torch.tensor([labels]))


@pytest.fixture
def predictor() -> BoxPredictor:
    return BoxPredictor().build(1, CLASSES)


def detect(
    predictor: BoxPredictor,
    probabilities: list[list[float]],
    regions: Instances,
    deltas: Tensor | None = None,
    **changed: Any,
) -> Instances:
    """Detections where the box of every class is the region itself, save for what the test sets in ``changed``."""
    scores = predictor.scores(torch.tensor(probabilities).log())
    deltas = torch.zeros(len(scores), CLASSES, 4) if deltas is None else deltas
    settings = {"nms_threshold": 0.5, "topk_candidates": 100, "detections_per_image": 10, **changed}
    return Postprocessor(**settings)(scores[None], deltas[None], regions, SIZES, predictor.delta_weights)


def found(detections: Instances) -> list[tuple[int, float]]:
    labels, scores = detections.labels[detections.valid], detections.scores[detections.valid]
    return [(label, round(score, 4)) for label, score in zip(labels.tolist(), scores.tolist(), strict=True)]


class TestSampleRegions:
    truth = instances([0, 0, 40, 40], [60, 60, 90, 90], labels=[2, 0])
    proposals = instances([0, 0, 40, 30], [60, 60, 90, 70], [50, 0, 60, 10])

    def draw(self, low: float = 0.0, count: int = 100, fraction: float = 1.0) -> tuple[Instances, Tensor]:
        regions, matched = self.sample(self.proposals, self.truth, low, count, fraction)
        return regions, self.truth.boxes.take_along_dim(matched[..., None], dim=1)

    def sample(
        self, proposals: Instances, truth: Instances, low: float = 0.0, count: int = 100, fraction: float = 1.0
    ) -> tuple[Instances, Tensor]:
        heads = RoIHeads(matcher=Matcher(0.5, 0.5, False, min_bg_iou=low), sampler=BalancedSampler(count, fraction))
        heads.num_classes = CLASSES
        return heads.sample(proposals, truth, torch.arange(len(truth.valid)))

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
        regions, _ = self.sample(*padded)
        assert regions.valid.sum() == 5
        assert regions.boxes[regions.valid].isfinite().all()

    def test_an_image_without_objects_gives_background(self) -> None:
        nothing = self.truth._replace(valid=torch.zeros(1, 2, dtype=torch.bool))
        regions, _ = self.sample(self.proposals, nothing, fraction=0.25)
        assert regions.labels[regions.valid].tolist() == [CLASSES] * 3


def test_loss_is_the_papers(predictor) -> None:
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
    losses = predictor.loss(probabilities.log(), deltas, regions, truth)
    assert losses["loss_classifier"].item() == pytest.approx(-(math.log(0.6) + math.log(0.5)) / 2, rel=1e-5)
    assert losses["loss_box_reg"].item() == pytest.approx((1 - 0.5 / 9) / 2, rel=1e-5)


def test_class_loss_is_the_mean_over_the_valid() -> None:
    logits, labels = slots(4), torch.tensor([0, 99, 3, 1, -7, 2])
    assert_close(class_loss(logits, labels, VALID), F.cross_entropy(logits[VALID], labels[VALID]))


def test_only_the_valid_get_a_gradient() -> None:
    logits = slots(4)
    class_loss(logits, torch.zeros(6, dtype=torch.int64), VALID).backward()
    assert torch.equal(logits.grad.abs().sum(dim=1) > 0, VALID)


def test_class_loss_of_nothing_is_zero_and_has_a_gradient_of_zero() -> None:
    logits = slots(4)
    loss = class_loss(logits, torch.full((6,), 99), torch.zeros(6, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_half_precision_is_computed_in_single() -> None:
    logits = torch.tensor([[30000.0, -30000.0]], dtype=torch.float16)
    loss = class_loss(logits, torch.tensor([1]), torch.tensor([True]))
    assert loss.dtype == torch.float32
    assert loss.item() == 60000


def test_every_class_above_the_threshold_is_detected(predictor) -> None:
    detections = detect(predictor, [[0.5, 0.04, 0.3, 0.16]], instances([10, 10, 30, 30]))
    assert found(detections) == [(0, 0.5), (2, 0.3)]


def test_background_is_never_detected(predictor) -> None:
    assert not detect(predictor, [[0.01, 0.01, 0.01, 0.97]], instances([10, 10, 30, 30])).valid.any()


def test_suppression_is_within_a_class(predictor) -> None:
    regions = instances([10, 10, 30, 30], [10, 10, 30, 29])
    detections = detect(predictor, [[0.6, 0.01, 0.3, 0.09], [0.4, 0.5, 0.01, 0.09]], regions)
    assert found(detections) == [(0, 0.6), (1, 0.5), (2, 0.3)]


def test_candidates_and_limit(predictor) -> None:
    regions = instances([0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10])
    probabilities = [[0.9, 0.1, 0, 0], [0.7, 0.2, 0, 0.1], [0.6, 0.4, 0, 0]]
    assert found(detect(predictor, probabilities, regions, topk_candidates=4)) == [
        (0, 0.9),
        (0, 0.7),
        (0, 0.6),
        (1, 0.4),
    ]
    assert found(detect(predictor, probabilities, regions, detections_per_image=2)) == [(0, 0.9), (0, 0.7)]


def test_padding_is_not_detected(predictor) -> None:
    regions = instances([0, 0, 10, 10], [20, 0, 30, 10])._replace(valid=torch.tensor([[False, True]]))
    assert found(detect(predictor, [[0.9, 0.1, 0, 0], [0, 0.8, 0, 0.2]], regions)) == [(1, 0.8)]


def test_each_class_moves_its_own_box(predictor) -> None:
    deltas = torch.zeros(1, CLASSES, 4)
    deltas[0, 1, 0] = 5  # half a width to the right
    deltas[0, 2, 3] = 5 * math.log(2)  # twice as high
    settings = {"topk_candidates": 10, "detections_per_image": 3}
    detections = detect(predictor, [[0.5, 0.3, 0.2, 1e-9]], instances([20, 20, 40, 40]), deltas, **settings)
    assert_close(
        detections.boxes[0], torch.tensor([[20.0, 20, 40, 40], [30, 20, 50, 40], [20, 10, 40, 50]]), rtol=0, atol=1e-4
    )


def test_boxes_are_clipped_and_dropped_outside(predictor) -> None:
    detections = detect(
        predictor, [[0.9, 0, 0, 0.1], [0.8, 0, 0, 0.2]], instances([90, -5, 120, 20], [101, 0, 120, 20])
    )
    assert detections.boxes[detections.valid].tolist() == [[90, 0, 100, 20]]


def test_a_new_head_is_undecided() -> None:
    """Fast R-CNN, section 2.3: the layers start near zero."""
    head = TwoMLPHead(channels=8, pool_size=2).build(4)
    logits, deltas = BoxPredictor().build(8, CLASSES)(head(torch.randn(5, 4, 2, 2)))
    assert (logits.shape, deltas.shape) == ((5, CLASSES + 1), (5, CLASSES, 4))
    assert_close(logits.softmax(dim=1), torch.full((5, CLASSES + 1), 1 / (CLASSES + 1)), rtol=0, atol=0.05)


def test_two_fc_head_is_that_of_torchvision() -> None:
    theirs = torchvision.models.detection.faster_rcnn.TwoMLPHead(4 * 9, 8)
    ours = TwoMLPHead(channels=8, pool_size=3).build(4)
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
        assert_close(Res5Head(weights=weights).eval()(features), expected, rtol=1e-4, atol=1e-4)

    def test_recipe_gives_the_same_architecture_without_the_weights(self, weights) -> None:
        head = Res5Head(weights=weights)
        description = json.dumps(to_config(head))
        assert weights not in description
        rebuilt = from_config(json.loads(description))
        assert {name: type(module) for name, module in rebuilt.named_modules()} == {
            name: type(module) for name, module in head.named_modules()
        }

    def test_weights_that_do_not_exist(self) -> None:
        with pytest.raises(CheckpointError, match="nowhere"):
            Res5Head(weights="nowhere.pth")


class Published(nn.Module):
    """A small network with the layers and the names of torchvision's VGG or, with dropout first, AlexNet."""

    def __init__(self, num_classes: int, side: int, dropout_first: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 1, stride=2), nn.Conv2d(4, 5, 1, stride=2))
        self.avgpool = nn.AdaptiveAvgPool2d(side)
        one, other = nn.Linear(5 * side * side, 12), nn.Linear(12, 9)
        middle = (one, nn.ReLU(), nn.Dropout(), other, nn.ReLU())
        layers = (nn.Dropout(), *middle) if dropout_first else (*middle, nn.Dropout())
        self.classifier = nn.Sequential(*layers, nn.Linear(9, num_classes))


class Chain(ConvNet):
    layer_names = ("features",)
    return_layers: Mapping[int, str] = {1: "features.0", 2: "features.1"}

    def __init__(self, weights: str | None = None, stages: tuple[int, ...] = (2,), alexnet: bool = False) -> None:
        self.alexnet = alexnet
        super().__init__("chain", weights, stages, frozen=0)

    def build(self, num_classes: int) -> nn.Module:
        return Published(num_classes, 6 if self.alexnet else 7, self.alexnet)

    def head(self, model: Any) -> dict[str, nn.Module]:
        return {"avgpool": model.avgpool, "flatten": nn.Flatten(), "classifier": model.classifier}


class TestClassifierHead:
    @pytest.mark.parametrize(("alexnet", "size"), [(False, 7), (True, 6)])
    @torch.no_grad()
    def test_is_the_hidden_layers_of_the_network(self, tmp_path, alexnet, size) -> None:
        theirs = Published(1000, size, alexnet).eval()
        torch.save(theirs.state_dict(), tmp_path / "weights.pth")
        head = ClassifierHead(Chain(str(tmp_path / "weights.pth"), alexnet=alexnet)).eval()
        assert (head.pool_size, head.channels) == (size, 9)
        with pytest.raises(ValueError, match=r"has in_channels 5, .* needs in_channels 6"):
            head.build(6)
        features = torch.randn(4, 5, size, size)
        assert_close(head(features), theirs.classifier[:-1](features.flatten(1)))
        assert sum(parameter.numel() for parameter in head.parameters()) == 5 * size**2 * 12 + 12 + 12 * 9 + 9

    def test_dropout_is_for_training(self) -> None:
        head, features = ClassifierHead(Chain(), dropout=0.5), torch.randn(2000, 5, 7, 7)
        nn.init.ones_(head.fc7.bias)
        nn.init.zeros_(head.fc7.weight)
        assert_close(head.eval()(features), torch.ones(2000, 9))
        dropped = head.train()(features)
        assert sorted(dropped.unique().tolist()) == [0, 2]
        assert (dropped == 0).float().mean().item() == pytest.approx(0.5, abs=0.02)

    def test_recipe_gives_the_same_head_without_the_weights(self, tmp_path) -> None:
        torch.save(Published(1000, 6, True).state_dict(), tmp_path / "weights.pth")
        head = ClassifierHead(Chain(str(tmp_path / "weights.pth"), alexnet=True), dropout=0.1)
        description = json.dumps(to_config(head))
        assert "weights.pth" not in description
        rebuilt = from_config(json.loads(description))
        rebuilt.load_state_dict(head.state_dict())
        assert (rebuilt.pool_size, rebuilt.dropout) == (6, 0.1)

    def test_weights_that_do_not_exist(self) -> None:
        with pytest.raises(CheckpointError, match="nowhere"):
            ClassifierHead(Chain("nowhere.pth"))

    def test_networks_that_have_no_such_layers(self) -> None:
        with torch.device("meta"):
            with pytest.raises(ValueError, match=r"resnet18 has 1 fully connected layer.*two of three"):
                ClassifierHead(ResNet("resnet18"))
            with pytest.raises(ValueError, match="needs the whole network"):
                ClassifierHead(Chain(stages=(1,)))


class TestTruncate:
    """Fast R-CNN, section 3.1."""

    features = torch.randn(6, 3, 4, 4)

    @pytest.fixture
    def head(self) -> TwoMLPHead:
        torch.manual_seed(0)
        return TwoMLPHead(channels=20, pool_size=4).build(3)

    @torch.no_grad()
    def test_full_rank_changes_nothing(self, head) -> None:
        expected = head(self.features)
        svd_compress(head, 20, 20)
        assert_close(head(self.features), expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("rank", [1, 5, 19])
    def test_layers_are_the_best_of_their_rank(self, head, rank) -> None:
        layers = head.fc6, head.fc7
        svd_compress(head, rank, rank)
        for layer, (first, second) in zip(layers, (head.fc6, head.fc7), strict=True):
            u, s, v = np.linalg.svd(layer.weight.detach().numpy(), full_matrices=False)
            best = torch.from_numpy((u[:, :rank] * s[:rank]) @ v[:rank])
            assert_close(second.weight @ first.weight, best, rtol=0, atol=1e-6)
            assert (first.weight.shape, second.weight.shape) == ((rank, v.shape[1]), (len(u), rank))
            assert first.bias is None
            assert torch.equal(second.bias, layer.bias)

    def test_a_wide_layer_and_a_tall_one(self) -> None:
        head = TwoMLPHead(channels=9, pool_size=2).build(1)
        weight = head.fc6.weight.detach().clone()
        svd_compress(head, 4, 9)
        assert_close(head.fc6[1].weight @ head.fc6[0].weight, weight, rtol=0, atol=1e-6)

    @torch.no_grad()
    def test_heads_of_classifiers_too(self) -> None:
        head, features = ClassifierHead(Chain()).eval(), torch.randn(3, 5, 7, 7)
        expected = head(features)
        svd_compress(head, 12, 9)
        assert_close(head(features), expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(("ranks", "message"), [((21, 5), "fc6: rank 21 .*and 20"), ((5, 0), "fc7: rank 0")])
    def test_ranks_that_do_not_exist_change_nothing(self, head, ranks, message) -> None:
        with pytest.raises(ValueError, match=message):
            svd_compress(head, *ranks)
        assert isinstance(head.fc6, nn.Linear)

    def test_twice(self, head) -> None:
        svd_compress(head, 5, 5)
        with pytest.raises(ValueError, match="fc6 has been truncated already"):
            svd_compress(head, 5, 5)

    def test_recipe_is_of_the_truncated_head(self, head) -> None:
        svd_compress(head, 7, 5)
        again = from_config(to_config(head)).build(3)
        again.load_state_dict(head.state_dict())
        assert_close(again(self.features), head(self.features))
        assert again.fc6[0].weight.shape == (7, 48)


def test_conv_fc_head_is_that_of_torchvision() -> None:
    torch.manual_seed(0)
    ours = ConvFCHead(channels=6, pool_size=5, num_convs=2).build(4).eval()
    theirs = torchvision.models.detection.faster_rcnn.FastRCNNConvFCHead(
        (4, 5, 5), [4, 4], [6], norm_layer=torch.nn.BatchNorm2d
    ).eval()
    for own, other in zip(ours.convs, theirs, strict=False):
        for value in (own.norm.weight, own.norm.bias, own.norm.running_mean):
            torch.nn.init.normal_(value)
        other[0].load_state_dict({"weight": own.weight})
        other[1].load_state_dict(own.norm.state_dict())
    theirs[3].load_state_dict(ours.fc.state_dict())
    features = torch.randn(3, 4, 5, 5)
    assert_close(ours(features), theirs(features))
