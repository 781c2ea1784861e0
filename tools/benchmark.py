"""Measure detseg against torchvision: the same weights, images, threads and precision, in turns, in one run.

    python tools/benchmark.py [train] [infer] [masks] [targets] [--threads 2] [--repeats 5]

``masks`` are 100 small masks that become run lengths of an image of 800 x 1333 pixels; the other side is detectron2's
way. ``targets`` are those of 128 regions in each of 16 images of 480 x 640 pixels with 7 objects, resized to 800 x
1067; the other side takes whole maps, as torchvision does. Memory and the difference of the losses are printed as well.

Other work on a machine disturbs both sides alike only if they alternate, so they do; read the ratio, not the seconds.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from pycocotools.mask import encode
from torch import Tensor
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import roi_align
from torchvision.ops.misc import FrozenBatchNorm2d

from detseg.data.masks import POLYGONS, pack_masks, pack_polygons
from detseg.models import FasterRCNN
from detseg.models.weights import from_torchvision
from detseg.modules import FPN
from detseg.modules.backbones import ResNet
from detseg.ops.masks import GRID, grids, mask_targets
from detseg.ops.runs import runs
from detseg.structures import Batch, Instances

HEIGHT, WIDTH, CLASSES, OBJECTS = 480, 640, 80, 10


def models() -> tuple[FasterRCNN, torch.nn.Module]:
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
    return ours, theirs


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


def batch(size: int) -> Batch:
    torch.manual_seed(1)
    images = torch.randint(0, 256, (size, 3, HEIGHT, WIDTH), dtype=torch.uint8)
    corner = torch.rand(size, OBJECTS, 2) * torch.tensor([WIDTH - 200, HEIGHT - 200])
    boxes = torch.cat([corner, corner + 20 + 180 * torch.rand(size, OBJECTS, 2)], dim=-1)
    valid = torch.ones(size, OBJECTS, dtype=torch.bool)
    targets = Instances(boxes, valid, torch.randint(0, CLASSES, (size, OBJECTS)))
    sizes = torch.tensor([[HEIGHT, WIDTH]]).repeat(size, 1)
    return Batch(images, sizes, targets, torch.arange(size), sizes)


def train() -> dict[str, Callable[[], object]]:
    """One training step of two images: forward, backward, SGD."""
    ours, theirs = models()
    data = batch(2)
    images = [image / 255 for image in data.images]
    assert data.targets.labels is not None
    targets = [
        {"boxes": boxes, "labels": labels + 1}
        for boxes, labels in zip(data.targets.boxes, data.targets.labels, strict=True)
    ]
    steps = {}
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
            torch.stack(list(loss().values())).sum().backward()
            optimizer.step()

        steps[name] = step
    return steps


def infer() -> dict[str, Callable[[], object]]:
    """Detections of one image."""
    ours, theirs = models()
    data = batch(1)
    image = data.images[0] / 255
    ours.eval()
    theirs.eval()
    return {
        "detseg": torch.inference_mode()(lambda: ours(data.images, data.sizes)),
        "torchvision": torch.inference_mode()(lambda: theirs([image])),
    }


def masks() -> dict[str, Callable[[], object]]:
    """Run lengths of 100 masks over boxes of 20 to 400 pixels."""
    random = torch.Generator().manual_seed(0)
    height, width = 800, 1333
    coarse = torch.randn(100, 1, 7, 7, generator=random)
    small = torch.sigmoid(3 * F.interpolate(coarse, size=28, mode="bicubic"))[:, 0]
    half = 10 + 190 * torch.rand(100, 2, generator=random)
    middle = torch.rand(100, 2, generator=random) * torch.tensor([width, height])
    limit = torch.tensor([width, height] * 2)
    boxes = torch.minimum(torch.cat([middle - half, middle + half], dim=1).clamp(min=0), limit)
    return {
        "detseg": lambda: list(runs(small.numpy(), boxes.numpy(), height, width)),
        "detectron2's way": lambda: [
            encode(np.asfortranarray(pasted(mask, box, height, width).numpy()))
            for mask, box in zip(small, boxes, strict=True)
        ],
    }


def pasted(mask: Tensor, box: Tensor, height: int, width: int) -> Tensor:
    """The whole map (h, w) uint8 of a mask, sampled in the window of its box, as detectron2 pastes it on a CPU."""
    left, top = (box[:2].floor().int() - 1).clamp(min=0).tolist()
    right = min(int(box[2].ceil()) + 1, width)
    bottom = min(int(box[3].ceil()) + 1, height)
    x = (torch.arange(left, right) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
    y = (torch.arange(top, bottom) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
    grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=-1)
    values = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
    whole = torch.zeros(height, width, dtype=torch.uint8)
    whole[top:bottom, left:right] = values >= 0.5
    return whole


def targets() -> dict[str, Callable[[], object]]:
    """From the masks of a batch to what the mask head should say of its regions."""
    random = np.random.default_rng(0)
    images, objects, regions = 16, 7, 128
    angles = np.linspace(0, 2 * np.pi, 28)[:-1]
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * random.uniform(0.7, 1, (images, objects, 27, 1))
    radius = np.exp(random.uniform(np.log(8), np.log(150), (images, objects, 1, 2)))
    polygons = (corners * radius + random.uniform(0, (WIDTH, HEIGHT), radius.shape)).clip(0, (WIDTH, HEIGHT))
    packed = pack_masks([(POLYGONS, pack_polygons([one.ravel().tolist()])) for one in polygons.reshape(-1, 27, 2)])
    rows = np.arange(images * objects).reshape(images, objects)
    drawn = [packed.draw(row, HEIGHT, WIDTH) for row in rows]
    boxes = torch.from_numpy(np.concatenate([polygons.min(axis=2), polygons.max(axis=2) + 1e-3], axis=2)).float()
    scale = torch.tensor([1067 / WIDTH, 800 / HEIGHT] * 2)
    of = torch.arange(regions) % objects
    own = (boxes * scale)[:, of]
    sides = (own[..., 2:] - own[..., :2]).repeat(1, 1, 2)
    torch.manual_seed(0)
    drawn_regions = own + sides * (0.4 * torch.rand(own.shape) - 0.2)

    def over_boxes() -> Tensor:
        small = torch.stack([grids(masks, row) for masks, row in zip(drawn, boxes, strict=True)])
        return mask_targets(small[:, of], own, drawn_regions, 28)

    def whole() -> Tensor:
        found = []
        for masks, row in zip(drawn, drawn_regions, strict=True):
            flat = [
                cv2.resize(mask.view(np.uint8), (1067, 800), interpolation=cv2.INTER_NEAREST_EXACT) for mask in masks
            ]
            maps, numbered = torch.from_numpy(np.stack(flat)).float(), torch.cat([of[:, None].float(), row], dim=1)
            found.append(roi_align(maps[:, None], numbered, 28, aligned=True)[:, 0])
        return torch.stack(found)

    for knowledge in (0, 1, 3):
        truth = whole()
        logits = torch.randn(truth.shape) + knowledge * (2 * truth - 1)
        ours, theirs = (F.binary_cross_entropy_with_logits(logits, values) for values in (over_boxes(), truth))
        print(f"loss of logits N(0, 1) + {knowledge} x truth: {ours:.4f}, of whole maps {theirs:.4f}")
    room = images * 8 / 2**20  # objects are padded to a power of two
    print(
        f"memory: grids {room * GRID**2:.0f} MiB, whole maps {room * 800 * 1088:.0f} MiB, "
        f"polygons {packed.data.nbytes / 1024:.0f} KiB"
    )
    return {"detseg": over_boxes, "whole maps": whole}


PARTS = {"train": train, "infer": infer, "masks": masks, "targets": targets}


def measure(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each side, called in turns after one call that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, call in sides.items():
            start = time.perf_counter()
            call()
            if turn > 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", default=[], metavar="part", help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"{', '.join(unknown)}: not a part; there are {', '.join(PARTS)}")
    torch.set_num_threads(arguments.threads)
    print(f"{platform.processor() or platform.machine()}, {arguments.threads} threads, fp32, {HEIGHT}x{WIDTH}")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}")
    for part in arguments.parts or PARTS:
        median = measure(PARTS[part](), arguments.repeats)
        ours, theirs = median.values()
        ratio = theirs / ours
        print(
            f"{part:8}",
            *(f"{name} {1000 * value:.0f} ms" for name, value in median.items()),
            f"{ratio:.2f} x",
            sep="  ",
        )


if __name__ == "__main__":
    main()
