"""The two-stage detectors of torchvision, as configs/torchvision builds them, against torchvision's own.

Both sides load the same random state, each in its own way and as if it were the published one: names, batch norm's
epsilon, frozen layers and COCO's labels are then what they are with the real weights. In double precision: in single,
the rounding of an untrained network is enough to turn over some suppressions.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.models import WeightsEnum
from torchvision.ops import FrozenBatchNorm2d

from detseg.configurable import from_config, to_config
from detseg.data import COCO as COCOData
from detseg.export.torchvision import export_torchvision
from detseg.model_zoo import config, describe, detector
from detseg.ops.boxes import UNWEIGHTED
from detseg.structures import Batch, Instances
from detseg.weights.torchvision import COCO, PUBLISHED, from_torchvision, structures, to_torchvision

LABELS = list(COCO.values())
HEIGHT, WIDTH = 96, 128
SIZES = [(96, 80), (70, 128)]
PROPOSALS, DETECTIONS = 16, 10


class Pair(NamedTuple):
    theirs: Any
    ours: Any
    state: dict[str, Tensor]  # torchvision's, that both have loaded


def settings(name: str) -> dict[str, Any]:
    return config(name)


def random_state(name: str) -> dict[str, Tensor]:
    """Weights of a network whose activations are about 1, whose batch norm has small variances, and that finds much."""
    torch.manual_seed(3)
    mobile = "mobilenet" in name
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=91)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.bias is None:
            module.weight.data *= 0.03  # so that epsilon counts
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.normal_(module.bias, std=0.1)
    model.train()
    with torch.no_grad():
        images = torch.rand(2, 3, HEIGHT, WIDTH) * 4 - 2
        features = model.backbone(images)
        for layer, feature in zip(model.backbone.fpn.layer_blocks, features.values(), strict=False):
            if len(layer) == 1:
                layer[0].weight /= feature.std()
        regions = torch.randn(8, 256, 7, 7)
        model.roi_heads.box_head(regions)
        if model.roi_heads.has_mask():
            model.roi_heads.mask_head(torch.randn(8, 256, 14, 14))
        nn.init.normal_(model.rpn.head.cls_logits.weight, std=0.2)
        if mobile:  # of regions in one cell of 32 pixels, which look the same, chance would find either
            model.rpn.head.bbox_pred.bias.view(-1, 4)[:, 2:] = 1.2
        nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.4 if mobile else 0.06)
        nn.init.normal_(model.roi_heads.box_predictor.bbox_pred.weight, std=0.05)
        unused = [label for label in range(1, 91) if label not in LABELS]
        model.roi_heads.box_predictor.cls_score.bias[unused] = -1000.0  # as good as never found, after a training
    return {key: value.clone() for key, value in model.state_dict().items()}


def as_published(state: dict[str, Tensor], theirs: nn.Module) -> dict[str, Tensor]:
    """Frozen batch norm has no count of batches."""
    frozen = any(isinstance(module, FrozenBatchNorm2d) for module in theirs.modules())
    return {key: value for key, value in state.items() if not (frozen and key.endswith("num_batches_tracked"))}


@pytest.fixture(scope="module", params=[name for name in PUBLISHED if "rcnn" in name])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    name = request.param
    state = random_state(name)
    fetched = []

    def get_state_dict(weights: WeightsEnum, *_: Any, **options: Any) -> dict[str, Tensor]:
        assert options["check_hash"]
        fetched.append(weights)
        return dict(state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WeightsEnum, "get_state_dict", get_state_dict)
        theirs = torchvision.models.get_model(name, weights="COCO_V1")
        ours = build_ours(name)
    assert fetched == [torchvision.models.get_model_weights(name).COCO_V1] * 2
    theirs.transform.resize = lambda image, target: (image, target)
    theirs.transform.postprocess = lambda found, *_: found  # masks as the head gives them, not pasted into the image
    theirs, ours = theirs.eval().double(), ours.eval().double()
    body = ours.backbone.backbone  # its constants were made in single precision
    body.mean = 255 * torch.tensor(theirs.transform.image_mean, dtype=torch.float64).view(3, 1, 1)
    body.std = 255 * torch.tensor(theirs.transform.image_std, dtype=torch.float64).view(3, 1, 1)
    yield Pair(theirs, ours, as_published(state, theirs))
    del theirs, ours
    gc.collect()


def build_ours(name: str) -> Any:
    """Build with the weights that the configuration names; ``from_config`` alone expects them in a checkpoint."""
    described = describe(settings(name)["model"])
    network = from_config(described, num_classes=len(COCO))
    assert network.pretrained is None
    return from_config(described, num_classes=len(COCO), weights=described["init_args"]["weights"])


@pytest.fixture(scope="module")
def batch() -> Batch:
    torch.manual_seed(4)
    images = torch.zeros(len(SIZES), 3, HEIGHT, WIDTH, dtype=torch.uint8)
    boxes = torch.zeros(len(SIZES), 4, 4, dtype=torch.float64)
    labels = torch.zeros(len(SIZES), 4, dtype=torch.int64)
    valid = torch.zeros(len(SIZES), 4, dtype=torch.bool)
    for row, (height, width) in enumerate(SIZES):
        images[row, :, :height, :width] = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        corner = torch.rand(3, 2) * torch.tensor([width - 60, height - 60])
        boxes[row, :3] = torch.cat([corner, corner + 20 + 40 * torch.rand(3, 2)], dim=1)
        labels[row, :3] = torch.randint(0, len(COCO), (3,))
        valid[row, : 3 - row] = True
    sizes = torch.tensor(SIZES)
    masks = torch.zeros(len(SIZES), 4, 28, 28, dtype=torch.uint8)
    return Batch(images, sizes, Instances(boxes, valid, labels, masks=masks), torch.arange(len(SIZES)), sizes)


def as_list(batch: Batch) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    images = [image[:, :h, :w].double() / 255 for image, (h, w) in zip(batch.images, SIZES, strict=True)]
    boxes, valid, labels = batch.targets.boxes, batch.targets.valid, batch.targets.labels
    assert labels is not None
    of_label = torch.tensor(LABELS)
    targets = [
        {"boxes": b[v], "labels": of_label[c[v]], "masks": torch.zeros(len(b[v]), *size)}
        for b, v, c, size in zip(boxes, valid, labels, SIZES, strict=True)
    ]
    return images, targets


def fewer(pair: Pair, patch: pytest.MonkeyPatch) -> None:
    """Not to wait for a thousand regions, and the masks of a hundred."""
    patch.setattr(pair.ours.rpn, "post_nms_top_n", (PROPOSALS, PROPOSALS))
    patch.setattr(pair.theirs.rpn, "_post_nms_top_n", {"training": PROPOSALS, "testing": PROPOSALS})
    patch.setattr(pair.ours.roi_heads.postprocessor, "detections_per_image", DETECTIONS)
    patch.setattr(pair.theirs.roi_heads, "detections_per_img", DETECTIONS)


def test_settings_are_those_of_torchvision(request, pair) -> None:
    theirs, ours, _ = pair
    rpn, heads = theirs.rpn, theirs.roi_heads
    for own, other in ((ours.rpn, rpn), (ours.roi_heads, heads)):
        matcher, sampler = other.proposal_matcher, other.fg_bg_sampler
        assert own.matcher.fg_iou_threshold == matcher.high_threshold
        assert own.matcher.bg_iou_threshold == matcher.low_threshold
        assert own.matcher.allow_low_quality_matches == matcher.allow_low_quality_matches
        assert own.sampler.batch_size_per_image == sampler.batch_size_per_image
        assert own.sampler.positive_fraction == sampler.positive_fraction
    assert tuple(rpn.box_coder.weights) == UNWEIGHTED
    assert tuple(ours.roi_heads.box_predictor.delta_weights) == tuple(heads.box_coder.weights)
    assert tuple(ours.rpn.pre_nms_top_n) == (rpn._pre_nms_top_n["training"], rpn._pre_nms_top_n["testing"])
    assert tuple(ours.rpn.post_nms_top_n) == (rpn._post_nms_top_n["training"], rpn._post_nms_top_n["testing"])
    assert (ours.rpn.nms_threshold, ours.rpn.score_threshold) == (rpn.nms_thresh, rpn.score_thresh)
    own = ours.roi_heads.postprocessor
    assert (own.nms_threshold, own.score_threshold) == (heads.nms_thresh, heads.score_thresh)
    assert own.detections_per_image == heads.detections_per_img
    data = from_config(describe(settings(request.node.callspec.params["pair"])["data"]))
    assert isinstance(data, COCOData)
    resize = data.transforms[0]
    assert (*resize.sizes, resize.max_size) == (*theirs.transform.min_size, theirs.transform.max_size)


def test_what_learns_is_what_learns_in_torchvision(pair) -> None:
    theirs, ours, _ = pair
    learning = {name: torch.tensor(parameter.requires_grad) for name, parameter in ours.named_parameters()}
    names = {to: own for own in learning for to in to_torchvision({own: torch.zeros(91 * 4, 1)})}
    for name, parameter in theirs.named_parameters():
        assert bool(learning[names[name]]) == parameter.requires_grad, name


@torch.no_grad()
def test_detections(pair, batch, monkeypatch) -> None:
    fewer(pair, monkeypatch)
    theirs, ours, _ = pair
    detections = ours(batch.images, batch.image_sizes)
    expected = theirs(as_list(batch)[0])
    assert sum(len(image["boxes"]) for image in expected) == DETECTIONS * len(SIZES)
    assert len({int(label) for image in expected for label in image["labels"]}) > 3
    for row, image in enumerate(expected):
        valid = detections.valid[row]
        assert_close(detections.scores[row][valid], image["scores"], rtol=0, atol=1e-4)
        assert_close(detections.boxes[row][valid], image["boxes"], rtol=0, atol=1e-4)
        assert torch.equal(torch.tensor(LABELS)[detections.labels[row][valid]], image["labels"])
        if "masks" in image:
            assert image["masks"].std() > 0.1
            assert_close(detections.masks[row][valid], image["masks"][:, 0], rtol=0, atol=1e-4)


@torch.no_grad()
def test_losses_on_the_same_samples(pair, batch, monkeypatch) -> None:
    """Where every candidate is drawn, nothing is random: both sides see the same anchors and regions.

    The masks are empty, so that what torchvision interpolates of them is known.
    """
    fewer(pair, monkeypatch)
    theirs, ours, _ = pair
    samplers = (ours.rpn.sampler, ours.roi_heads.sampler, theirs.rpn.fg_bg_sampler, theirs.roi_heads.fg_bg_sampler)
    for sampler in samplers:
        monkeypatch.setattr(sampler, "batch_size_per_image", 10**6)
        monkeypatch.setattr(sampler, "positive_fraction", 1.0)
    own = ours.loss(batch)
    theirs.train()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    expected = theirs(*as_list(batch))
    theirs.eval()
    assert set(own) == set(expected)
    for name in own:
        assert_close(own[name], expected[name], rtol=1e-6, atol=0, check_dtype=False)


def test_round_trip(request, pair) -> None:
    """Bit by bit, but for what nothing reads: the rows of labels that no object has, and the background's boxes."""
    name = request.node.callspec.params["pair"]
    own = {key: value.float() if value.is_floating_point() else value for key, value in pair.ours.state_dict().items()}
    back = to_torchvision(own, LABELS)
    assert back.keys() == pair.state.keys()
    for key, value in pair.state.items():
        if "box_predictor" in key or "mask_fcn_logits" in key:
            count = 4 if "bbox_pred" in key else 1
            rows = [0, *LABELS] if "cls_score" in key else LABELS
            assert torch.equal(back[key].view(91, count, -1)[rows], value.view(91, count, -1)[rows]), key
        else:
            assert torch.equal(back[key], value), key
    again = from_torchvision(back, LABELS)
    assert again.keys() == own.keys()
    assert all(torch.equal(again[key], own[key]) for key in own)
    torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=91).load_state_dict(back)


def test_conversion_there_and_back(request, pair) -> None:
    name = request.node.callspec.params["pair"]
    assert name in structures(pair.state)
    model = detector(name, pair.state, class_names=None, published_as=None)
    assert model.class_names == tuple(COCO)
    assert model.category_ids == tuple(LABELS)
    described = to_config(model)["init_args"]
    assert {key: value for key, value in described.items() if key not in ("backbone", "weights")} == {
        key: value for key, value in to_config(pair.ours)["init_args"].items() if key not in ("backbone", "weights")
    }
    back = export_torchvision(model).state_dict
    assert back.keys() == pair.state.keys()
    own = {key: value.to(back[key].dtype) for key, value in to_torchvision(pair.ours.state_dict(), LABELS).items()}
    assert all(torch.equal(back[key], own[key]) for key in own)
