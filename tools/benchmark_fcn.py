"""Measure the dilated FCN on ResNet-50 against torchvision's: the same weights, images and threads, in turns.

    python tools/benchmark_fcn.py [train] [infer] [--threads 2] [--repeats 5]

Read the ratios, not the seconds: other work on a machine disturbs all sides alike.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from benchmark import measure
from torch import Tensor, nn
from torchvision.models.segmentation import fcn_resnet50
from torchvision.transforms.functional import normalize

from detseg.models import DilatedFCN
from detseg.models.weights import segmenter_from_torchvision
from detseg.modules.backbones import ResNet
from detseg.structures import VOID, Batch, Instances

SIDE, CLASSES = 480, 21


def models() -> tuple[DilatedFCN, nn.Module]:
    torch.manual_seed(0)
    theirs = fcn_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)
    ours = DilatedFCN(ResNet("resnet50", stages=[4, 5], output_stride=8), CLASSES)
    ours.load_state_dict(segmenter_from_torchvision(theirs.state_dict()))
    return ours.to(memory_format=torch.channels_last), theirs  # as a task trains it


def batch(size: int) -> Batch:
    images = torch.randint(0, 256, (size, SIDE, SIDE, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    sizes = torch.tensor([[SIDE, SIDE]]).repeat(size, 1)
    nothing = Instances(torch.zeros(size, 1, 4), torch.zeros(size, 1, dtype=torch.bool))
    semantic = torch.randint(0, CLASSES, (size, SIDE, SIDE))
    return Batch(images, sizes, nothing, torch.arange(size), sizes, semantic=semantic)


def normal(data: Batch) -> Tensor:
    return normalize(data.images.contiguous() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def train() -> dict[str, Callable[[], object]]:
    """One training step of two images: forward, backward, SGD."""
    ours, theirs = models()
    data = batch(2)
    images = normal(data)

    def their_loss() -> Tensor:
        outputs = theirs(images)
        losses = {name: F.cross_entropy(value, data.semantic, ignore_index=VOID) for name, value in outputs.items()}
        return losses["out"] + 0.5 * losses["aux"]

    def step(model: nn.Module, loss: Callable[[], Tensor], half: bool) -> None:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            total = loss()
        total.backward()
        optimizers[model].step()

    # A learning rate of zero keeps the work of every step the same.
    optimizers = {model: torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9) for model in (ours, theirs)}
    our_loss = lambda: torch.stack(list(ours.loss(data).values())).sum()  # noqa: E731
    return {
        "torchvision": partial(step, theirs.train(), their_loss, False),
        "detseg": partial(step, ours.train(), our_loss, False),
        "detseg bfloat16": partial(step, ours, our_loss, True),
    }


def infer() -> dict[str, Callable[[], object]]:
    """Logits of one image."""
    ours, theirs = (model.eval() for model in models())
    data = batch(1)
    images = normal(data)

    @torch.inference_mode()
    def run(call: Callable[[], object], half: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            call()

    return {
        "torchvision": partial(run, lambda: theirs(images)["out"], False),
        "detseg": partial(run, lambda: ours(data.images, data.sizes), False),
        "detseg bfloat16": partial(run, lambda: ours(data.images, data.sizes), True),
    }


PARTS = {"train": train, "infer": infer}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", default=[], metavar="part", help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.threads} threads, {SIDE}x{SIDE}, torch {torch.__version__}")
    for part in arguments.parts or PARTS:
        median = measure(PARTS[part](), arguments.repeats)
        for name, value in median.items():
            print(f"{part:6} {name:16} {1000 * value:7.0f} ms  {median['torchvision'] / value:.2f} x")


if __name__ == "__main__":
    main()
