"""Small detectors of every kind, with the numbers that tests change under flat names, and a backbone for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from detseg.models import FasterRCNN, FastRCNN, MaskRCNN
from detseg.models.fast_rcnn import FastRCNNHeads
from detseg.models.mask_rcnn import MaskRCNNHeads
from detseg.modules import (
    RPN,
    AnchorGenerator,
    BalancedSampler,
    BoxHead,
    MaskHead,
    Matcher,
    Postprocessor,
    RoIAlign,
    RoIHeads,
    RoIPooler,
    RPNHead,
)
from detseg.modules.backbones import Backbone


class SmallBackbone(Backbone):
    """Maps of stride 2 ** stage, of the kind of a ResNet's in a fraction of its time."""

    def __init__(self, stages: Sequence[int] = (2, 3), width: int = 16) -> None:
        super().__init__()
        widths = [3, *(width * 2**stage for stage in range(max(stages)))]
        self.blocks = nn.ModuleList(map(_block, widths, widths[1:]))
        self.stages = list(stages)
        self.channels, self.strides = [widths[stage] for stage in stages], [2**stage for stage in stages]

    def forward(self, images: Tensor, image_sizes: Tensor | None = None) -> list[Tensor]:
        maps = [self.normalize(images, image_sizes)]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return [maps[stage] for stage in self.stages]


def _block(inputs: int, outputs: int) -> nn.Module:
    layers: list[nn.Module] = []
    for width, stride in ((inputs, 2), (outputs, 1)):
        layers += [nn.Conv2d(width, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def rpn(
    sizes: list[list[float]] | None = None,
    batch_size_per_image: int = 64,
    positive_fraction: float = 0.5,
    iou: tuple[float, float] = (0.3, 0.7),
    num_convs: int = 1,
    **settings: Any,
) -> RPN:
    """An RPN with few samples and proposals."""
    matcher = Matcher(iou[1], iou[0], allow_low_quality_matches=True)
    sampler = BalancedSampler(batch_size_per_image, positive_fraction)
    settings = {"pre_nms_top_n": (200, 100), "post_nms_top_n": (100, 50), **settings}
    return RPN(AnchorGenerator(sizes), RPNHead(num_convs), matcher, sampler, **settings)


def roi_heads(
    cls: type[RoIHeads] = RoIHeads,
    box_head: BoxHead | None = None,
    pooler: RoIPooler | None = None,
    batch_size_per_image: int = 64,
    positive_fraction: float = 0.25,
    iou: tuple[float, float] = (0.0, 0.5),
    mask_head: MaskHead | None = None,
    **postprocessing: Any,
) -> RoIHeads:
    """RoI heads with few samples; ``iou`` is what background must reach, and objects."""
    masks = {"mask_head": mask_head} if mask_head else {}
    return cls(
        box_head=box_head,
        pooler=pooler or RoIAlign(),
        matcher=Matcher(iou[1], iou[1], allow_low_quality_matches=False, min_bg_iou=iou[0]),
        sampler=BalancedSampler(batch_size_per_image, positive_fraction),
        postprocessor=Postprocessor(**{"nms_threshold": 0.5, **postprocessing}),
        **masks,
    )


def faster_rcnn(backbone: Backbone, num_classes: int, box_head: BoxHead, **settings: Any) -> FasterRCNN:
    """Settings that begin with ``rpn_`` are those of ``rpn``, the others of ``roi_heads``."""
    of_rpn, of_heads = _split(settings)
    return FasterRCNN(backbone, num_classes, rpn(**of_rpn), roi_heads(RoIHeads, box_head, **of_heads))


def mask_rcnn(backbone: Backbone, num_classes: int, box_head: BoxHead, **settings: Any) -> MaskRCNN:
    of_rpn, of_heads = _split(settings)
    return MaskRCNN(backbone, num_classes, rpn(**of_rpn), roi_heads(MaskRCNNHeads, box_head, **of_heads))  # type: ignore[arg-type]


def fast_rcnn(backbone: Backbone, num_classes: int, box_head: BoxHead, **settings: Any) -> FastRCNN:
    return FastRCNN(backbone, num_classes, roi_heads(FastRCNNHeads, box_head, **settings))  # type: ignore[arg-type]


def _split(settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    rpn = {name.removeprefix("rpn_"): value for name, value in settings.items() if name.startswith("rpn_")}
    return rpn, {name: value for name, value in settings.items() if not name.startswith("rpn_")}
