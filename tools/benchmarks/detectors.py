"""Speed of detectors, and of the operations that they spend their time in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import MultiScaleRoIAlign, batched_nms
from torchvision.ops.misc import FrozenBatchNorm2d

from detseg.models import FasterRCNN
from detseg.models.weights import from_torchvision
from detseg.modules import FPN
from detseg.modules.backbones import ResNet
from detseg.ops.regions import roi_align
from detseg.ops.suppression import suppress
from detseg.structures import Batch, Instances

HEIGHT, WIDTH, CLASSES, OBJECTS = 480, 640, 80, 10
STRIDES = (4, 8, 16, 32)

Call = Callable[[], object]


def models(device: str) -> tuple[FasterRCNN, torch.nn.Module]:
    """Faster R-CNN R50-FPN of both sides, stem and first stage frozen, batch norm frozen, the same random weights.

    The untrained network is made to behave like a trained one where time depends on it: activations stay O(1), and some
    hundred (region, class) pairs pass the score threshold.
    """
    torch.manual_seed(0)
    body = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3)
    theirs = TorchvisionFasterRCNN(body, CLASSES + 1, min_size=HEIGHT, max_size=WIDTH)
    with torch.no_grad():
        calibrate(body.body, torch.rand(1, 3, HEIGHT, WIDTH) * 4 - 2)
        features = theirs.backbone(torch.rand(1, 3, HEIGHT, WIDTH) * 4 - 2)
        for layer, feature in zip(theirs.backbone.fpn.layer_blocks, features.values(), strict=False):
            layer[0].weight /= feature.std()
    theirs.roi_heads.box_predictor.cls_score.weight.data.normal_(std=0.15)
    ours = FasterRCNN(FPN(ResNet("resnet50", norm="frozen", frozen=2)), CLASSES)
    ours.load_state_dict(from_torchvision(theirs.state_dict()))
    layout = {"device": device, "memory_format": torch.channels_last}
    return ours.to(**layout), theirs.to(**layout)  # type: ignore[call-overload]


def calibrate(network: torch.nn.Module, images: Tensor) -> None:
    """Give each frozen batch norm the statistics of its input, as training would have."""

    def observe(norm: torch.nn.Module, inputs: tuple[Tensor]) -> None:
        norm.running_mean.copy_(inputs[0].mean(dim=(0, 2, 3)))
        norm.running_var.copy_(inputs[0].var(dim=(0, 2, 3)))

    hooks = [
        module.register_forward_pre_hook(observe)
        for module in network.modules()
        if isinstance(module, FrozenBatchNorm2d)
    ]
    network(images)
    for hook in hooks:
        hook.remove()


def batch(size: int, device: str) -> Batch:
    torch.manual_seed(1)
    images = torch.randint(0, 256, (size, 3, HEIGHT, WIDTH), dtype=torch.uint8)
    corner = torch.rand(size, OBJECTS, 2) * torch.tensor([WIDTH - 200, HEIGHT - 200])
    boxes = torch.cat([corner, corner + 20 + 180 * torch.rand(size, OBJECTS, 2)], dim=-1)
    valid = torch.ones(size, OBJECTS, dtype=torch.bool)
    targets = Instances(boxes, valid, torch.randint(0, CLASSES, (size, OBJECTS)))
    sizes = torch.tensor([[HEIGHT, WIDTH]]).repeat(size, 1)
    whole = Batch(images.contiguous(memory_format=torch.channels_last), sizes, targets, torch.arange(size), sizes)
    return tree_map(lambda value: value if value is None else value.to(device), whole)  # type: ignore[no-any-return]


def train(device: str, half: bool) -> dict[str, Call]:
    """One training step of two images: forward, backward, SGD."""
    ours, theirs = models(device)
    data = batch(2, device)
    images = [image / 255 for image in data.images]
    assert data.targets.labels is not None
    targets = [
        {"boxes": boxes, "labels": labels + 1}
        for boxes, labels in zip(data.targets.boxes, data.targets.labels, strict=True)
    ]
    steps: dict[str, Call] = {}
    losses: dict[str, tuple[torch.nn.Module, Callable[[], dict[str, Tensor]]]] = {
        "detseg": (ours, lambda: ours.loss(data)),
        "torchvision": (theirs, lambda: theirs(images, targets)),
    }
    for name, (model, loss) in losses.items():
        model.train()
        parameters = [p for p in model.parameters() if p.requires_grad]
        # A learning rate of zero keeps the work of every step the same.
        optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9, weight_decay=1e-4)

        def step(loss: Callable[[], dict[str, Tensor]] = loss, optimizer: torch.optim.Optimizer = optimizer) -> None:
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=half):
                total = torch.stack(list(loss().values())).sum()
            total.backward()
            optimizer.step()

        steps[name] = step
    return steps


def infer(device: str, half: bool) -> dict[str, Call]:
    """Detections of one image."""
    ours, theirs = models(device)
    data = batch(1, device)
    image = data.images[0] / 255
    ours.eval()
    theirs.eval()

    def within(call: Call) -> Call:
        return torch.inference_mode()(torch.autocast(device, torch.bfloat16, enabled=half)(call))

    return {
        "detseg": within(lambda: ours(data.images, data.sizes)),
        "torchvision": within(lambda: theirs([image])),
    }


def regions(images: int, count: int, device: str) -> Tensor:
    """Boxes (B, count, 4) of 16 to 400 pixels a side, small ones more often."""
    torch.manual_seed(2)
    sides = 16 * 25 ** torch.rand(images, count, 2)
    corner = torch.rand(images, count, 2) * (torch.tensor([WIDTH, HEIGHT]) - sides).clamp(min=0)
    return torch.cat([corner, corner + sides], dim=-1).to(device)


def pooling(device: str, half: bool) -> dict[str, Call]:
    """RoIAlign of 512 regions in each of two images over four levels of 256 channels, forward and backward."""
    boxes = regions(2, 512, device)
    precision = torch.bfloat16 if half else torch.float32
    maps = [
        torch.randn(2, 256, HEIGHT // stride, WIDTH // stride, device=device, dtype=precision)
        .contiguous(memory_format=torch.channels_last)
        .requires_grad_()
        for stride in STRIDES
    ]
    pooler = MultiScaleRoIAlign([str(stride) for stride in STRIDES], 7, sampling_ratio=2)
    named = {str(stride): feature for stride, feature in zip(STRIDES, maps, strict=True)}
    sizes = [(HEIGHT, WIDTH)] * 2

    def both(pool: Callable[[], Tensor]) -> Call:
        def call() -> None:
            for feature in maps:
                feature.grad = None
            with torch.autocast(device, torch.bfloat16, enabled=half):
                pooled = pool()
            pooled.sum().backward()

        return call

    return {
        "detseg": both(lambda: roi_align(maps, boxes, STRIDES, 7)),
        "torchvision": both(lambda: pooler(named, list(boxes), sizes)),
    }


def nms(device: str, half: bool) -> dict[str, Call]:
    """Suppression of 2000 boxes on each of four levels, of two images."""
    boxes = regions(2, 8000, device)
    scores = torch.rand(boxes.shape[:2], device=device)
    levels = torch.arange(4, device=device).repeat_interleave(2000).expand(2, -1)
    valid = torch.ones_like(levels, dtype=torch.bool)
    return {
        "detseg": lambda: suppress(boxes, scores, levels, valid, 0.7, 2000),
        "torchvision": lambda: [batched_nms(*image, 0.7)[:2000] for image in zip(boxes, scores, levels, strict=True)],
    }


def startup(device: str, half: bool) -> dict[str, Call]:
    """A new process until the package is imported."""
    return {
        package: partial(subprocess.run, [sys.executable, "-c", f"import {package}"], check=True)
        for package in ("detseg", "torchvision", "torch")
    }
