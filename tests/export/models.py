"""Small models whose random weights detect and tell apart enough for a proof."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detseg.models import FCN, Classifier, FastRCNN, MaskRCNN, RetinaNet
from detseg.models.fast_rcnn import FastRCNNHeads
from detseg.models.mask_rcnn import MaskRCNNHeads
from detseg.models.model import Model
from detseg.modules import FPN, RPN, MaskHead, RoIPool, TwoMLPHead
from detseg.modules.backbones import Backbone
from detseg.modules.retina_head import RetinaHead
from detseg.preprocessing import CenterCropConfig, ResizeConfig

FRAME = (96, 128)
SIZES = {"fcn": FRAME, "classifier": (64, 64)}  # where a frame must be given, or is another
IMAGES = 24  # of their proofs: batches of 1, 3 and 8, twice
CLASSES = ("a", "b", "c")
GAINS = {  # weights begin so small that all scores are alike
    "bbox_pred.weight": 30,
    "cls_score.weight": 30,
    "cls_logits.weight": 10,  # more, and sigmoid gives many regions a score of exactly 1
    "bbox_reg.weight": 30,
    "mask_fcn_logits.weight": 1000,
}


class TinyNet(Backbone):
    """A convolution with batch norm for each stride, each twice the one before."""

    def __init__(self, strides: Sequence[int]) -> None:
        super().__init__()
        self.strides = list(strides)
        self.channels = [8 << level for level in range(len(strides))]
        self.layers = nn.ModuleList()
        for width, channels, step in zip([3, *self.channels], self.channels, [strides[0], 2, 2, 2], strict=False):
            conv = nn.Conv2d(width, channels, step + 1, step, step // 2, bias=False)
            self.layers.append(nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU()))

    def forward(self, images: Tensor, image_sizes: Tensor | None = None) -> list[Tensor]:
        maps = [self.normalize(images, image_sizes)]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        return maps[1:]


def rpn() -> RPN:
    return RPN(pre_nms_top_n=(60, 60), post_nms_top_n=(40, 40))


def make(name: str) -> Model:
    """Build a model with random weights and the statistics of random images."""
    torch.manual_seed(0)
    model = MODELS[name]()
    model.class_names = CLASSES
    detects = hasattr(model, "needs_masks")
    model.preprocessing = ResizeConfig(96, 128) if detects else CenterCropConfig(64) if name == "classifier" else None
    _estimate_statistics(model)
    for parameter, value in model.named_parameters():
        value.data *= next((gain for end, gain in GAINS.items() if parameter.endswith(end)), 1)
        if parameter.startswith("scores.") and parameter.endswith("weight"):
            nn.init.normal_(value, std=0.1)
    if isinstance(model, RetinaNet):
        nn.init.constant_(model.head.classification_head["cls_logits"].bias, -2.5)  # type: ignore[arg-type, index]
    return model.eval()


def _estimate_statistics(model: Model) -> None:
    network: Backbone = model.backbone  # type: ignore[assignment]
    network.train()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the mean over all batches
    with torch.no_grad():
        network(torch.randint(0, 256, (4, 3, *FRAME), dtype=torch.uint8))


MODELS = {
    "mask_rcnn": lambda: MaskRCNN(
        FPN(TinyNet([8, 16]), 8),
        3,
        rpn(),
        MaskRCNNHeads(box_head=TwoMLPHead(16), mask_head=MaskHead(1, channels=8)),
    ),
    "fast_rcnn": lambda: FastRCNN(TinyNet([16]), 3, FastRCNNHeads(RoIPool(), box_head=TwoMLPHead(16, pool_size=3))),
    "retinanet": lambda: RetinaNet(FPN(TinyNet([16]), 8), 3, head=RetinaHead(1)),
    "fcn": lambda: FCN(TinyNet([8, 16]), 3),
    "classifier": lambda: Classifier(TinyNet([8, 16, 32]), 3),
}
