"""What a classifier costs, on no device at all."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from detseg.models import Classifier
from detseg.modules.backbones import Backbone


def cost(kind: type[Backbone], *arguments: Any, side: int = 224) -> tuple[float, float]:
    """Millions of parameters and billions of multiply-adds of a classifier of 1000 classes."""
    with torch.device("meta"):
        return classified(Classifier(kind(*arguments), 1000), side)


def classified(classifier: Classifier, side: int = 224) -> tuple[float, float]:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        classifier.eval()(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    return sum(value.numel() for value in classifier.parameters()) / 1e6, counter.get_total_flops() / 2e9
