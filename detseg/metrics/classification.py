"""Accuracy of image classification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from detseg.metrics.base import PerClassMetric


class TopKAccuracy(PerClassMetric):
    """Share of images whose class has the highest score (``top1``) or one of the ``k`` highest (``top5`` by default).

    ``compute`` also gives ``top1/CLASS``, NaN for a class without an image. The states are counts, integers: for any
    number of ranks the values are the same to the last bit.
    """

    counts: Tensor  # (3, K) images of a class, those correct at first, and among the k highest
    columns = MappingProxyType({"top1": "top1"})

    def __init__(self, classes: Sequence[str] | None = None, k: int = 5, **kwargs: Any) -> None:
        super().__init__(classes, **kwargs)
        if k < 1:
            raise ValueError(f"k {k}: must be at least 1")
        self.k = k
        self.monitor_metrics = tuple(dict.fromkeys(("top1", f"top{k}")))

    def set_classes(self, classes: Sequence[str]) -> None:
        if len(classes) != len(self.classes):
            self.add_state("counts", torch.zeros(3, len(classes), dtype=torch.int64), dist_reduce_fx="sum")
            self.counts = self.counts.to(self.device)
        super().set_classes(classes)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count scores or logits (B, K) of images of the classes ``target`` (B,)."""
        if not self.classes:
            raise ValueError("TopKAccuracy needs the names of the classes: TopKAccuracy(classes)")
        correct = preds.topk(min(self.k, len(self.classes)), dim=1).indices == target[:, None]
        counts = torch.stack([torch.ones_like(target, dtype=torch.bool), correct[:, 0], correct.any(dim=1)]).long()
        self.counts.index_add_(1, target, counts)

    def compute(self) -> dict[str, float]:
        total, first, among_k = self.counts.cpu().double()
        per_class = zip(self.classes, (first / total).tolist(), strict=True)
        values = {"top1": float(first.sum() / total.sum()), f"top{self.k}": float(among_k.sum() / total.sum())}
        return values | {f"top1/{name}": value for name, value in per_class}

    def summary(self, values: Mapping[str, float]) -> list[str]:
        return [f"{name:<6} {100 * values[name]:5.1f} %" for name in self.monitor_metrics if name in values]
