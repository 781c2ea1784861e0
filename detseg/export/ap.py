"""Average precision of an exported detector beside that of its checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from detseg.export.matching import Arrays
from detseg.export.proof_images import ProofImage
from detseg.metrics import CocoAP
from detseg.structures import Instances, rescale

NAMES = ("AP", "AP50", "mask_AP", "mask_AP50")


class ApComparison:
    """Collect the detections of both in images with annotated objects."""

    def __init__(self) -> None:
        self.metrics = CocoAP(), CocoAP()

    def update(self, batch: Sequence[ProofImage], expected: Arrays, actual: Arrays) -> None:
        """Add the outputs for a batch; images without a ``target`` are left out."""
        rows = [row for row, image in enumerate(batch) if image.target is not None]
        if not rows:
            return
        targets = [batch[row].target or {} for row in rows]
        sizes = torch.tensor([batch[row].pixels.shape[:2] for row in rows])
        files = torch.tensor([target["size"] for target in targets])
        for metric, outputs in zip(self.metrics, (expected, actual), strict=True):
            columns = {name: torch.from_numpy(value[rows]) for name, value in outputs.items()}
            valid = torch.arange(columns["scores"].shape[1]) < columns.pop("num_detections")[:, None]
            metric.update(rescale(Instances(valid=valid, **columns), sizes, files), targets)

    def compute(self) -> dict[str, list[float]]:
        """Return the values of the checkpoint and of the exported model by name; none without annotated images."""
        if not self.metrics[0].batches:
            return {}
        values = [metric.compute() for metric in self.metrics]
        return {name: [float(each[name]) for each in values] for name in NAMES if name in values[0]}
