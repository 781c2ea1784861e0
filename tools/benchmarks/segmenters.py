"""Speed of the dilated FCN on ResNet-50."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation import fcn_resnet50
from torchvision.transforms.functional import normalize

from detseg.models import DilatedFCN
from detseg.modules.backbones import ResNet
from detseg.structures import IGNORE_INDEX, Batch, Instances
from detseg.weights.torchvision import segmenter_from_torchvision

SIDE, CLASSES = 480, 21
IMAGES = 2  # of a training step

Call = Callable[[], object]


def models(device: str) -> tuple[DilatedFCN, nn.Module]:
    torch.manual_seed(0)
    theirs = fcn_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)
    ours = DilatedFCN(ResNet("resnet50", stages=[4, 5], output_stride=8), CLASSES)
    ours.load_state_dict(segmenter_from_torchvision(theirs.state_dict()))
    layout = {"device": device, "memory_format": torch.channels_last}
    return ours.to(**layout), theirs.to(**layout)  # type: ignore[call-overload]


def batch(size: int, device: str) -> Batch:
    images = torch.randint(0, 256, (size, SIDE, SIDE, 3), dtype=torch.uint8).permute(0, 3, 1, 2).to(device)
    sizes = torch.tensor([[SIDE, SIDE]], device=device).repeat(size, 1)
    nothing = Instances(torch.zeros(size, 1, 4), torch.zeros(size, 1, dtype=torch.bool))
    semantic = torch.randint(0, CLASSES, (size, SIDE, SIDE), device=device)
    return Batch(images, sizes, nothing, torch.arange(size), sizes, semantic=semantic)


def normal(data: Batch) -> Tensor:
    return normalize(data.images / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def train(device: str, half: bool) -> dict[str, Call]:
    """One training step: forward, backward, SGD."""
    ours, theirs = models(device)
    data = batch(IMAGES, device)
    images = normal(data)

    def their_loss() -> Tensor:
        outputs = theirs(images)
        losses = {
            name: F.cross_entropy(value, data.semantic, ignore_index=IGNORE_INDEX) for name, value in outputs.items()
        }
        return losses["out"] + 0.5 * losses["aux"]

    def step(model: nn.Module, loss: Callable[[], Tensor]) -> None:
        model.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=half):
            total = loss()
        total.backward()
        optimizers[model].step()

    # A learning rate of zero keeps the work of every step the same.
    optimizers = {
        model: torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, fused=True) for model in (ours, theirs)
    }
    our_loss = lambda: torch.stack(list(ours.loss(data).values())).sum()  # noqa: E731
    return {
        "detseg": partial(step, ours.train(), our_loss),
        "torchvision": partial(step, theirs.train(), their_loss),
    }


def infer(device: str, half: bool) -> dict[str, Call]:
    """Logits of one image."""
    ours, theirs = (model.eval() for model in models(device))
    data = batch(1, device)
    images = normal(data)

    def within(call: Call) -> Call:
        return torch.inference_mode()(torch.autocast(device, torch.bfloat16, enabled=half)(call))

    return {
        "detseg": within(lambda: ours(data.images, data.image_sizes)),
        "torchvision": within(lambda: theirs(images)["out"]),
    }
