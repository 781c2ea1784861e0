"""How often the right class is the first, or among the first five."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

FIRST = 5


class TopK:
    """Counts right answers: integers, so that any number of ranks agree to the last bit."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = torch.zeros(3, num_classes, dtype=torch.int64)  # images of a class; right at first; among five

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count the answers (B, K) to images of the classes ``labels`` (B,)."""
        best = logits.topk(min(FIRST, self.num_classes), dim=1).indices == labels[:, None]
        rows = torch.stack([torch.ones_like(labels, dtype=torch.bool), best[:, 0], best.any(dim=1)]).long()
        self.counts = self.counts.to(labels.device)
        self.counts.index_add_(1, labels, rows)

    def gather(self) -> None:
        """Add up the counts of all ranks. Every rank must call it."""
        if dist.is_available() and dist.is_initialized():
            counts = [
                self.counts.cpu()
            ] * dist.get_world_size()  # on the CPU: a rank may have seen no image, nor device
            dist.all_gather_object(counts, self.counts.cpu())
            self.counts = torch.stack(counts).sum(dim=0)

    def figures(self, classes: tuple[str, ...]) -> dict[str, float]:
        """``top1`` and ``top5`` over all images, and ``top1/CLASS``; NaN for a class without any."""
        total, first, five = self.counts.cpu().double()
        own = {f"top1/{name}": float(right / count) for name, right, count in zip(classes, first, total, strict=True)}
        return {"top1": float(first.sum() / total.sum()), "top5": float(five.sum() / total.sum()), **own}
