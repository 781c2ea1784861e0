"""A box loss to try: generalised IoU (Rezatofighi et al. 2019, arXiv:1902.09630) instead of smooth L1."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from detseg.modules.box_head import BoxPredictor, class_loss
from detseg.ops.boxes import decode, take
from detseg.structures import Instances


class GIoUPredictor(BoxPredictor):
    """Learn boxes by their generalised IoU with the objects'; ``weight`` is that of the loss (10 in mmdetection)."""

    def __init__(self, weight: float = 10.0) -> None:
        super().__init__()
        self.weight = weight

    def loss(self, logits: Tensor, deltas: Tensor, regions: Instances, truth: Tensor) -> dict[str, Tensor]:
        assert regions.labels is not None
        labels, valid = regions.labels.flatten(), regions.valid.flatten()
        positive = valid & (labels < self.num_classes)
        of_class = take(deltas, labels.clamp(max=self.num_classes - 1)[:, None])[:, 0]
        boxes = decode(of_class, regions.boxes.flatten(0, 1), self.delta_weights)
        unit = boxes.new_tensor([0.0, 0, 1, 1])
        first, second = (torch.where(positive[:, None], one, unit) for one in (boxes, truth.flatten(0, 1)))
        loss = torch.where(positive, generalized_box_iou_loss(first, second), 0).sum() / valid.sum().clamp(min=1)
        return {"loss_classifier": class_loss(logits, labels, valid), "loss_box_reg": self.weight * loss}
