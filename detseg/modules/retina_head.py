"""The head of RetinaNet (Lin et al. 2017, arXiv:1708.02002, section 4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Self

import torch
from torch import Tensor, nn

from detseg.modules.layers import ConvNormAct
from detseg.modules.part import Part, check_ranges

PRIOR = 0.01  # probability of every class at first, so that the many negatives do not swamp the loss (section 3.3)


class RetinaHead(Part):
    """Two towers of ``num_convs`` convolutions over every map, one for classes and one for boxes.

    The paper has no norm, and smooth L1 of the deltas; "l1" is its limit and torchvision's choice. With ``num_groups``,
    group norm follows each convolution, and the ``box_loss`` "giou" compares boxes (Zhang et al. 2020,
    arXiv:1912.02424).
    """

    def __init__(
        self, num_convs: int = 4, num_groups: int | None = None, box_loss: Literal["l1", "giou"] = "l1"
    ) -> None:
        super().__init__()
        check_ranges({"num_convs": num_convs}, {})
        self.num_convs, self.num_groups, self.box_loss = num_convs, num_groups, box_loss

    def build(self, in_channels: int, num_anchors_per_cell: int, num_classes: int) -> Self:
        """Create the layers."""
        shape = {"in_channels": in_channels, "num_anchors_per_cell": num_anchors_per_cell, "num_classes": num_classes}
        if self.build_once(**shape):
            self.num_classes = num_classes
            cls_logits = nn.Conv2d(in_channels, num_anchors_per_cell * num_classes, 3, padding=1)
            bbox_reg = nn.Conv2d(in_channels, num_anchors_per_cell * 4, 3, padding=1)
            self.classification_head = nn.ModuleDict({"conv": self._tower(in_channels), "cls_logits": cls_logits})
            self.regression_head = nn.ModuleDict({"conv": self._tower(in_channels), "bbox_reg": bbox_reg})
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.normal_(layer.weight, std=0.01)  # section 4.1
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)
            nn.init.constant_(cls_logits.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]
        return self

    def _tower(self, channels: int) -> nn.Sequential:
        tower = nn.Sequential()
        for _ in range(self.num_convs):
            conv = ConvNormAct(channels, channels, 3, bias=self.num_groups is None)
            norms = [] if self.num_groups is None else [nn.GroupNorm(self.num_groups, channels)]
            tower.append(nn.Sequential(conv, *norms, nn.ReLU(inplace=True)))
        return tower

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Predict logits (B, A, K) and deltas (B, A, 4) of all anchors of ``features`` (B, C, h, w)."""
        logits, deltas = [], []
        classes, boxes = self.classification_head, self.regression_head
        for feature in features:
            level_logits = classes["cls_logits"](classes["conv"](feature))
            logits.append(level_logits.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, self.num_classes)))
            level_deltas = boxes["bbox_reg"](boxes["conv"](feature))
            deltas.append(level_deltas.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)))
        return torch.cat(logits, dim=1), torch.cat(deltas, dim=1)
