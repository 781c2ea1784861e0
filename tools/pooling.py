"""Compare ways to pool regions on the synthetic shapes, to find where RoIPool and RoIAlign differ.

    python tools/pooling.py --weights mobilenet_v2.pth --out pooling.json

RoIPool differs from RoIAlign in three things: it takes the largest value of a bin and not the mean of samples; it
rounds regions to whole cells; and its regions are a cell wider, as the last one counts in full. Each arm has one or two
of them. The network is Faster R-CNN over MobileNetV2 with a pyramid of 64 channels; see ``compare.py`` for the rest.
With ``--frozen`` the heads alone learn, for each arm anew, from the maps and proposals of a detector that was trained
with RoIAlign: that is quicker, and what is left of a difference is the pooling's own.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from comparison.results import Results, ResultsError
from comparison.training import make_task, train_ours
from lightning.pytorch import seed_everything
from torch import Tensor
from torchvision.ops import roi_align

from detseg.data import Resize, Shapes
from detseg.metrics import CocoAP, annotation_targets
from detseg.models import FasterRCNN
from detseg.modules import FPN, RPN, AnchorGenerator, BalancedSampler, RoIAlign, RoIHeads, RoIPool, TwoMLPHead
from detseg.modules.backbones import MobileNetV2
from detseg.modules.roi_pooler import RoIPooler
from detseg.structures import Batch, Instances, rescale

CHANNELS = 256  # of the box head
METRICS = ("AP", "AP50", "AP75", "AP_small", "AP_medium")  # no shape is large


def align(points: int = 2, wider: float = 0.0, largest: bool = False, aligned: bool = False) -> type[RoIPooler]:
    """Return a RoIAlign with so many sampling points along a bin, of regions ``wider`` by so many cells on each side.

    ``largest`` takes the largest of the points, and not their mean.
    """

    def pool(feature: Tensor, rois: Tensor, size: int, scale: float) -> Tensor:
        reach = wider / scale
        rois = rois + torch.tensor([0, -reach, -reach, reach, reach], dtype=rois.dtype)
        if largest:
            return F.max_pool2d(roi_align(feature, rois, points * size, scale, 1, aligned), points)
        return roi_align(feature, rois, size, scale, points, aligned)

    return type("Aligned", (RoIPooler,), {"pool": staticmethod(pool)})


ARMS: dict[str, type[RoIPooler]] = {
    "RoIAlign": align(),
    "RoIPool": RoIPool,
    "largest": align(largest=True),
    "wider": align(wider=0.5),
    "wider, largest": align(wider=0.5, largest=True),
    "half pixel": align(aligned=True),
    "16 points": align(points=4),
}


def build(pooler: type[RoIPooler], weights: str | None, num_classes: int) -> FasterRCNN:
    """Build the detector, with random weights beyond the backbone's."""
    rpn = RPN(AnchorGenerator([[16], [32], [64], [128]]), pre_nms_top_n=(500, 200), post_nms_top_n=(300, 100))
    heads = RoIHeads(pooler(), TwoMLPHead(CHANNELS), sampler=BalancedSampler(64, 0.25))
    return FasterRCNN(FPN(MobileNetV2(weights=weights, stages=[2, 3, 4]), channels=64), num_classes, rpn, heads)


def train(arm: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Train a detector with the pooling of an arm, and return its metrics."""
    seed_everything(seed, verbose=False)
    data = Shapes(str(options.root), num_workers=0)
    task = make_task(build(ARMS[arm], options.weights, data.num_classes), data.batch_size)
    train_ours(task, data, options.epochs)
    if not options.base.exists():
        torch.save(task.model.state_dict(), options.base)
    return task.metric_values


class Frozen:
    """The maps and proposals of a trained detector, on which the heads of each arm learn by themselves."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.data = Shapes(str(options.root), num_workers=0, transforms=[Resize(128, 160)])
        self.model = build(RoIAlign, None, self.data.num_classes)
        self.model.load_state_dict(torch.load(options.base))
        self.model.eval()
        loaders = self.data.train_dataloader(), self.data.val_dataloader()
        self.train, self.val = ([self._computed(batch, loader is loaders[0]) for batch in loader] for loader in loaders)

    @torch.no_grad()
    def _computed(self, batch: Batch, training: bool) -> tuple[Batch, list[Tensor], Instances]:
        features = self.model.backbone(batch.images, batch.image_sizes)
        predictions = self.model.rpn(features, batch.images.shape[-2:])
        return batch, features, self.model.rpn.propose(predictions, batch.image_sizes, training)

    def run(self, arm: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
        """Train the heads of an arm, from the same random weights for a seed, and return their metrics."""
        seed_everything(seed, verbose=False)
        heads = build(ARMS[arm], None, self.data.num_classes).roi_heads
        optimizer = torch.optim.AdamW(heads.parameters(), 1e-3, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs * len(self.train))
        for epoch in range(options.epochs):
            for place in torch.randperm(len(self.train)).tolist():
                batch, features, proposals = self.train[place]
                losses = heads.loss(features, proposals, batch.targets, batch.seeds + epoch)
                optimizer.zero_grad()
                sum(losses.values()).backward()
                optimizer.step()
                schedule.step()
        metric = CocoAP(self.data.classes)
        with torch.inference_mode():
            for batch, features, proposals in self.val:
                found = heads(features, proposals, batch.image_sizes)
                truth = annotation_targets(self.data.val_annotations, batch.image_index.tolist())
                metric.update(rescale(found, batch.image_sizes, batch.original_sizes), truth)
        return metric.compute()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", required=True, help="MobileNetV2's, a file")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    parser.add_argument("--root", type=Path, default="datasets/shapes")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)))
    parser.add_argument("--frozen", action="store_true", help="train the heads alone")
    parser.add_argument("--report", action="store_true", help="print the table of the runs so far, and train nothing")
    options = parser.parse_args()
    options.base = options.out.with_suffix(".pth")
    settings = {"epochs": options.epochs, "seeds": options.seeds} | ({"frozen": True} if options.frozen else {})
    try:
        results = Results(options.out, settings)
    except ResultsError as error:
        sys.exit(str(error))
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "detseg"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    frozen = None
    if options.frozen and not options.report:
        if not options.base.exists():
            train("RoIAlign", 0, options)
        frozen = Frozen(options)
    for seed in options.seeds if not options.report else ():
        for arm in ARMS:
            if (arm, seed) not in results.runs:
                start = time.process_time()
                metrics = (frozen.run if frozen else train)(arm, seed, options)
                values = {name: round(metrics[name], 5) for name in METRICS}
                values["seconds"] = round(time.process_time() - start, 1)
                results.add(arm, seed, values)
                shown = "  ".join(f"{metric} {value:.3f}" for metric, value in values.items())
                print(f"seed {seed}  {arm:16} {shown}", flush=True)
    print(results.table("RoIAlign", METRICS))


if __name__ == "__main__":
    main()
