"""Compare ways to pool regions on the drawn shapes, to find where RoIPool and RoIAlign differ.

    python tools/pooling.py --weights mobilenet_v2.pth --out pooling.json

RoIPool differs from RoIAlign in three things: it takes the largest value of a bin and not the mean of samples; it
rounds regions to whole cells; and its regions are a cell wider, as the last one counts in full. Each arm has one or two
of them. The network is Faster R-CNN over MobileNetV2 with a pyramid of 64 channels; see ``compare.py`` for the rest.
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

from detseg.data import Shapes
from detseg.models import FasterRCNN
from detseg.modules import FPN, RPN, AnchorGenerator, BalancedSampler, RoIHeads, RoIPool
from detseg.modules.backbones import MobileNetV2
from detseg.modules.roi_pooler import RoIPooler

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


def run(arm: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Train an arm with a seed, and return its metrics and seconds of the processor."""
    seed_everything(seed, verbose=False)
    start = time.process_time()
    data = Shapes(str(options.root), num_workers=0)
    anchors = AnchorGenerator(sizes=[[16], [32], [64], [128]])
    rpn = RPN(anchors, pre_nms_top_n=(500, 200), post_nms_top_n=(300, 100))
    heads = RoIHeads(ARMS[arm](), sampler=BalancedSampler(64, 0.25))
    pyramid = FPN(MobileNetV2(weights=options.weights, stages=[2, 3, 4]), channels=64)
    task = make_task(FasterRCNN(pyramid, data.num_classes, rpn, heads), data.batch_size)
    train_ours(task, data, options.epochs)
    metrics = {name: round(task.metric_values[name], 5) for name in METRICS}
    return metrics | {"seconds": round(time.process_time() - start, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", required=True, help="MobileNetV2's, a file")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    parser.add_argument("--root", type=Path, default="datasets/shapes")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)))
    parser.add_argument("--report", action="store_true", help="print the table of the runs so far, and train nothing")
    options = parser.parse_args()
    try:
        results = Results(options.out, {"epochs": options.epochs, "seeds": options.seeds})
    except ResultsError as error:
        sys.exit(str(error))
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "detseg"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    for seed in options.seeds if not options.report else ():
        for arm in ARMS:
            if (arm, seed) not in results.runs:
                values = run(arm, seed, options)
                results.add(arm, seed, values)
                shown = "  ".join(f"{metric} {value:.3f}" for metric, value in values.items())
                print(f"seed {seed}  {arm:16} {shown}", flush=True)
    print(results.table("RoIAlign", METRICS))


if __name__ == "__main__":
    main()
