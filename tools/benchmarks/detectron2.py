"""detectron2 as a peer, where it can be imported.

It has no wheels; ``python setup.py build_ext --inplace`` in its sources, which are then put on PYTHONPATH, will do.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detseg.modules.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD
from detseg.structures import Batch

NAMES = (  # what a name of ours begins with or holds, and what it is called there
    (r"^backbone\.backbone\.(conv1|bn1)\.", r"backbone.bottom_up.stem.\1."),
    (r"^backbone\.backbone\.layer([1-4])", lambda match: f"backbone.bottom_up.res{int(match[1]) + 1}"),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
    (r"\.bn([1-3])\.", r".conv\1.norm."),
    (r"^backbone\.lateral_convs\.(\d)", lambda match: f"backbone.fpn_lateral{int(match[1]) + 2}"),
    (r"^backbone\.output_convs\.(\d)", lambda match: f"backbone.fpn_output{int(match[1]) + 2}"),
    (r"^rpn\.head\.conv\.0", "proposal_generator.rpn_head.conv"),
    (r"^rpn\.head\.cls_logits", "proposal_generator.rpn_head.objectness_logits"),
    (r"^rpn\.head\.bbox_pred", "proposal_generator.rpn_head.anchor_deltas"),
    (r"\.box_head\.fc6", ".box_head.fc1"),
    (r"\.box_head\.fc7", ".box_head.fc2"),
    (r"\.mask_head\.convs\.(\d)", lambda match: f".mask_head.mask_fcn{int(match[1]) + 1}"),
    (r"\.mask_head\.conv5_mask", ".mask_head.deconv"),
    (r"\.mask_head\.mask_fcn_logits", ".mask_head.predictor"),
)


def there() -> bool:
    return importlib.util.find_spec("detectron2") is not None


def model(ours: nn.Module, classes: int, masks: bool, device: str) -> nn.Module:
    """Faster or Mask R-CNN R50-FPN with the weights and the settings of ours: as many proposals, samples and points."""
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    settings = get_cfg()
    network = settings.MODEL
    network.DEVICE = device
    network.WEIGHTS = ""
    network.PIXEL_MEAN, network.PIXEL_STD = ([255 * x for x in values] for values in (IMAGENET_MEAN, IMAGENET_STD))
    network.BACKBONE.NAME = "build_resnet_fpn_backbone"
    network.BACKBONE.FREEZE_AT = 2
    network.RESNETS.STRIDE_IN_1X1 = False
    network.RESNETS.OUT_FEATURES = network.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    network.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    network.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    network.RPN.PRE_NMS_TOPK_TRAIN, network.RPN.PRE_NMS_TOPK_TEST = 2000, 1000
    network.RPN.POST_NMS_TOPK_TRAIN, network.RPN.POST_NMS_TOPK_TEST = 2000, 1000
    network.ROI_HEADS.NAME = "StandardROIHeads"
    network.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    network.ROI_HEADS.NUM_CLASSES = classes
    head = network.ROI_BOX_HEAD
    head.NAME, head.NUM_FC, head.POOLER_RESOLUTION, head.POOLER_SAMPLING_RATIO = "FastRCNNConvFCHead", 2, 7, 2
    head = network.ROI_MASK_HEAD
    head.NAME, head.NUM_CONV, head.POOLER_RESOLUTION, head.POOLER_SAMPLING_RATIO = "MaskRCNNConvUpsampleHead", 4, 14, 2
    network.MASK_ON = masks
    theirs: nn.Module = build_model(settings)
    state = {their_name(name): value for name, value in ours.state_dict().items()}
    missing, unknown = theirs.load_state_dict(state, strict=False)
    assert not unknown, unknown
    assert not missing, missing
    return theirs.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def their_name(name: str) -> str:
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)  # type: ignore[arg-type]
    return name


def samples(data: Batch, polygons: Sequence[Sequence[Tensor]] | None) -> list[dict[str, Any]]:
    """The images and objects of a batch; ``polygons`` hold the corners (n, 2) of each object of each image."""
    from detectron2.structures import Boxes, Instances, PolygonMasks

    inputs = []
    assert data.targets.labels is not None
    for row, image in enumerate(data.images):
        objects = Instances(tuple(image.shape[1:]))
        objects.gt_boxes, objects.gt_classes = Boxes(data.targets.boxes[row]), data.targets.labels[row]
        if polygons is not None:
            objects.gt_masks = PolygonMasks([[corners.flatten().numpy()] for corners in polygons[row]])
        height, width = image.shape[1:]
        inputs.append({"image": image, "instances": objects, "height": height, "width": width})
    return inputs


def recorded(call: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The losses of a call, which wants a place to note its statistics in."""
    from detectron2.utils.events import EventStorage

    with EventStorage():
        return call()
