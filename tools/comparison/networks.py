"""detseg's network and torchvision's of the same shape, with the same weights and the same parameters frozen."""

from __future__ import annotations

import torchvision
from comparison.arms import Arm
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads as TorchvisionMaskHead
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.ops.misc import FrozenBatchNorm2d

from detseg.models import FasterRCNN
from detseg.models.mask_rcnn import MaskRCNN, MaskRCNNHeads
from detseg.modules import FPN, BalancedSampler, MaskHead, RoIHeads
from detseg.modules.backbones import MobileNetV2
from detseg.weights.torchvision import to_torchvision

CHANNELS = 64  # of the pyramid and the mask head: a quarter of the usual, for a CPU


def network(arm: Arm, num_classes: int, masks: bool, weights: str, regions: int) -> FasterRCNN | MaskRCNN:
    """Build Faster or Mask R-CNN as an arm has it, with random weights beyond the backbone's."""
    pyramid = FPN(MobileNetV2(weights=weights), channels=CHANNELS)
    sampler = BalancedSampler(regions, positive_fraction=0.25)
    if masks:
        heads = MaskRCNNHeads(arm.pooler(), mask_head=MaskHead(channels=CHANNELS), sampler=sampler)
        return arm.mask_rcnn(pyramid, num_classes, arm.rpn(), heads)
    return FasterRCNN(pyramid, num_classes, arm.rpn(), RoIHeads(arm.pooler(), sampler=sampler))


def torchvision_network(ours: FasterRCNN | MaskRCNN) -> TorchvisionFasterRCNN:
    """Build torchvision's network with the weights that ours has now, and the same parameters frozen."""
    features = torchvision.models.mobilenet_v2(norm_layer=FrozenBatchNorm2d).features
    stages = {"3": "0", "6": "1", "13": "2", "18": "3"}
    is_mask = isinstance(ours, MaskRCNN)
    model = (TorchvisionMaskRCNN if is_mask else TorchvisionFasterRCNN)(
        BackboneWithFPN(features, stages, [24, 32, 96, 1280], CHANNELS),
        ours.num_classes + 1,
        rpn_anchor_generator=AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5),
        box_batch_size_per_image=ours.roi_heads.sampler.batch_size_per_image,
        **({"mask_head": TorchvisionMaskHead(CHANNELS, (CHANNELS,) * 4, 1)} if is_mask else {}),
    )
    if is_mask:
        model.roi_heads.mask_predictor = MaskRCNNPredictor(CHANNELS, CHANNELS, ours.num_classes + 1)
    model.load_state_dict(to_torchvision(ours.state_dict()))
    frozen = {name for name, parameter in ours.named_parameters() if not parameter.requires_grad}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.replace("backbone.body.", "backbone.backbone.features.") not in frozen)
    model.transform.resize = lambda image, target: (image, target)  # the batches are resized already
    return model
