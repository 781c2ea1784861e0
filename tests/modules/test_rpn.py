from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from detseg import kernels
from detseg.modules import RPN, AnchorGenerator, BalancedSampler, Matcher, RPNHead
from detseg.modules.rpn import Predictions
from detseg.structures import Instances

IMAGE = (64, 96)
SIZES = torch.tensor([(64, 96), (50, 40)])
SEEDS = torch.tensor([3, 4])


def make(sizes: list[list[int]], num_convs: int = 1, channels: int = 4, **settings: Any) -> RPN:
    """An RPN over maps of four channels that samples every anchor."""
    sampler = BalancedSampler(10**6, positive_fraction=1.0)
    rpn = RPN(AnchorGenerator(sizes), RPNHead(num_convs), sampler=sampler, **settings)
    rpn.anchor_generator.build([8 * 2**level for level in range(len(sizes))])
    rpn.head.build(channels, rpn.anchor_generator.num_anchors_per_cell)
    return rpn


@pytest.fixture
def rpn() -> RPN:
    torch.manual_seed(0)
    return make(sizes=[[16], [32]])


def propose(rpn: RPN, predictions: Predictions, sizes: Tensor, candidates: int, limit: int) -> Instances:
    rpn.pre_nms_top_n, rpn.post_nms_top_n = (candidates, candidates), (limit, limit)
    return rpn.propose(predictions, sizes, training=True)


@pytest.fixture
def features() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, 4, 8, 12), torch.randn(2, 4, 4, 6)]


def predict(scores: list[list[float]], boxes: list[list[float]]) -> Predictions:
    """What a network says that repeats its anchors, ``boxes`` of one map, for images of these ``scores``."""
    logits = torch.tensor(scores).logit()
    return Predictions(logits, torch.zeros(*logits.shape, 4), torch.tensor(boxes), [len(boxes)])


def with_gradients(predictions: Predictions) -> Predictions:
    """The same predictions as of a head whose gradients are those of every anchor."""
    return predictions._replace(logits=predictions.logits.requires_grad_())


def targets(*boxes: list[float]) -> Instances:
    return Instances(torch.tensor([boxes]).view(1, -1, 4), torch.ones(1, len(boxes), dtype=torch.bool))


def test_one_prediction_for_each_anchor(rpn, features) -> None:
    logits, deltas, anchors, counts = rpn(features, IMAGE)
    assert counts == [8 * 12 * 3, 4 * 6 * 3]
    assert (logits.shape, deltas.shape, anchors.shape) == ((2, 360), (2, 360, 4), (360, 4))


def test_predictions_belong_to_the_anchor_at_their_place(rpn, features) -> None:
    """The layers' channels are anchors of one cell; the cell in row 2 and column 5 of the first map is at (40, 16)."""
    logits, deltas, anchors, _ = rpn(features, IMAGE)
    hidden = rpn.head.conv[0](features[0]).relu()
    place = (2 * 12 + 5) * 3 + 1
    assert_close(logits[:, place], rpn.head.cls_logits(hidden)[:, 1, 2, 5])
    assert_close(deltas[:, place], rpn.head.bbox_pred(hidden)[:, 4:8, 2, 5])
    assert anchors[place].tolist() == [40 - 8, 16 - 8, 40 + 8, 16 + 8]


def test_anchors_are_not_in_the_state(rpn) -> None:
    assert {name.rpartition(".")[0] for name in rpn.state_dict()} == {
        "head.conv.0",
        "head.cls_logits",
        "head.bbox_pred",
    }


def test_proposals_lie_inside_the_image_best_first(rpn, features) -> None:
    proposals = propose(rpn, rpn(features, IMAGE), SIZES, candidates=100, limit=50)
    assert proposals.boxes.shape == (2, 50, 4)
    assert proposals.valid.sum(dim=1).min() > 10
    for boxes, valid, scores, (height, width) in zip(
        proposals.boxes, proposals.valid, proposals.scores, SIZES.tolist(), strict=True
    ):
        assert boxes.min() >= 0
        assert boxes[:, 0::2].max() <= width
        assert boxes[:, 1::2].max() <= height
        assert torch.equal(scores[valid], scores[valid].sort(descending=True).values)
        assert not boxes[~valid].any()


def test_only_the_best_candidates_of_each_map_are_looked_at(rpn, features) -> None:
    predictions = rpn(features, IMAGE)
    rpn.nms_threshold = 1.0
    proposals = propose(rpn, predictions, SIZES[:1].expand(2, 2), candidates=5, limit=50)
    assert proposals.valid.sum(dim=1).tolist() == [10, 10]
    best = torch.cat(
        [level.topk(5, dim=1).values for level in predictions.logits.split(predictions.num_anchors_per_level, dim=1)], 1
    )
    assert_close(proposals.scores[proposals.valid].view(2, 10), best.sigmoid().sort(dim=1, descending=True).values)


def test_proposals_of_one_map_suppress_each_other(rpn) -> None:
    predictions = predict([[0.6, 0.9, 0.8]], [[0, 0, 20, 20], [0, 0, 20, 19], [30, 30, 50, 50]])
    proposals = propose(rpn, predictions, SIZES[:1], candidates=10, limit=3)
    assert_close(proposals.scores[proposals.valid], torch.tensor([0.9, 0.8]))
    apart = propose(rpn, predictions._replace(num_anchors_per_level=[1, 2]), SIZES[:1], candidates=10, limit=3)
    assert_close(apart.scores[apart.valid], torch.tensor([0.9, 0.8, 0.6]))


def test_what_clipping_leaves_nothing_of_is_no_proposal(rpn) -> None:
    predictions = predict([[0.9, 0.5]], [[96, 0, 120, 20], [80, 0, 120, 20]])
    proposals = propose(rpn, predictions, SIZES[:1], candidates=10, limit=3)
    assert proposals.boxes[proposals.valid].tolist() == [[80, 0, 96, 20]]


def test_loss_is_the_papers(rpn) -> None:
    """Anchors of IoU 1 (positive), 0.5 (ignored) and 0 (negative), all of them sampled."""
    predictions = predict([[0.8, 0.3, 0.4]], [[0, 0, 20, 20], [0, 0, 20, 10], [40, 40, 60, 60]])
    predictions = predictions._replace(deltas=torch.tensor([[[0.5, 0, 0, 0], [9, 9, 9, 9], [9, 9, 9, 9]]]))
    losses = rpn.loss([], with_gradients(predictions), targets([0, 0, 20, 20]), SEEDS[:1])
    assert losses["loss_objectness"].item() == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2, rel=1e-5)
    assert losses["loss_rpn_box_reg"].item() == pytest.approx((0.5 - 0.5 / 9) / 2, rel=1e-5)


def test_samples_are_limited_and_mixed(rpn) -> None:
    rpn.sampler = BalancedSampler(4, 0.5)
    predictions = predict([[0.8] * 3 + [0.4] * 9], [[0.0, 0, 20, 20]] * 3 + [[40.0, 40, 60, 60]] * 9)
    loss = rpn.loss([], with_gradients(predictions), targets([0, 0, 20, 20]), SEEDS[:1])["loss_objectness"]
    assert loss.item() == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2, rel=1e-5)


def test_loss_of_nothing_is_zero_and_has_a_gradient_of_zero(rpn) -> None:
    """Every anchor overlaps the object by a half, and is ignored."""
    rpn.matcher = Matcher(0.7, 0.3, allow_low_quality_matches=False)
    predictions = with_gradients(predict([[0.8, 0.3]], [[0, 0, 20, 10], [0, 0, 10, 20]]))
    losses = rpn.loss([], predictions, targets([0, 0, 20, 20]), SEEDS[:1])
    losses["loss_objectness"].backward()
    assert [loss.item() for loss in losses.values()] == [0, 0]
    assert torch.equal(predictions.logits.grad, torch.zeros(1, 2))


def test_proposals_carry_no_gradient(rpn, features) -> None:
    assert not propose(rpn, rpn(features, IMAGE), SIZES, candidates=10, limit=5).boxes.requires_grad


def test_proposals_below_the_threshold_are_left_out() -> None:
    boxes = [[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]
    predictions = predict([[0.9, 0.03, 0.3]], boxes)
    for threshold, expected in ((0.0, 3), (0.05, 2), (0.5, 1)):
        rpn = make(sizes=[[16]], score_threshold=threshold)
        proposals = propose(rpn, predictions, SIZES[:1], candidates=10, limit=10)
        assert proposals.valid.sum() == expected


def test_deeper_convolutions_follow_the_first(features) -> None:
    torch.manual_seed(0)
    rpn = make(sizes=[[16], [32]], num_convs=3)
    hidden = features[0]
    for layer in rpn.head.conv:
        hidden = layer(hidden).relu()
    assert len(rpn.head.conv) == 3
    assert_close(rpn(features, IMAGE).logits[:, :3], rpn.head.cls_logits(hidden)[:, :, 0, 0])


@pytest.fixture
def objects() -> Instances:
    boxes = torch.tensor([[[8.0, 8, 40, 40], [50, 20, 90, 60]], [[2, 2, 20, 20], [0, 0, 0, 0]]])
    return Instances(boxes, torch.tensor([[True, True], [True, False]]))


@pytest.mark.parametrize("chosen", [torch.arange(360).expand(2, -1), torch.randint(0, 360, (2, 50))])
def test_anchors_alone_are_predicted_as_among_all_others(rpn, features, chosen) -> None:
    logits, deltas, _, _ = rpn(features, IMAGE)
    alone = rpn.head.forward_sampled(features, chosen)
    assert_close(alone[0], logits.gather(1, chosen))
    assert_close(alone[1], deltas.gather(1, chosen[..., None].expand(-1, -1, 4)))


@pytest.mark.parametrize("samples", [8, 10**6])
def test_gradient_of_the_samples_alone_is_that_of_all_anchors(rpn, features, objects, samples) -> None:
    rpn, features = rpn.double(), [feature.double() for feature in features]
    rpn.sampler = BalancedSampler(samples, 0.5)
    for layer in (*rpn.head.conv, rpn.head.cls_logits, rpn.head.bbox_pred):
        torch.nn.init.normal_(layer.weight, std=0.2)
    results = []
    for sparse in (False, True):
        maps = [feature.clone().requires_grad_() for feature in features]
        rpn.zero_grad()
        with kernels.use(fast=sparse):
            predictions = rpn(maps, IMAGE)
        assert predictions.logits.requires_grad == (not sparse)
        losses = rpn.loss(maps, predictions, objects, SEEDS)
        sum(losses.values()).backward()
        gradients = [value.grad.clone() for value in (*maps, *rpn.parameters())]
        results.append((torch.stack(list(losses.values())), gradients))
    (expected, dense), (losses, sparse) = results
    assert expected.min() > 0
    assert_close(losses, expected, rtol=1e-6, atol=0)
    for gradient, other in zip(sparse, dense, strict=True):
        assert other.any()
        assert (gradient - other).norm() < 1e-5 * other.norm()
