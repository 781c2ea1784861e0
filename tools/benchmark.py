"""Measure detseg against torchvision: the same weights, images, threads and precision, in turns, in one run.

    python tools/benchmark.py [train] [infer] [masks] [evaluate] [--threads 2] [--repeats 5]

``masks`` are 100 small masks that become run lengths of an image of 800 x 1333 pixels; the other side is detectron2's
way. ``evaluate`` is COCO's evaluation of 500,000 detections.

Other work on a machine disturbs both sides alike only if they alternate, so they do; read the ratio, not the seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import faster_coco_eval
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from numpy.typing import NDArray
from pycocotools.mask import encode
from torch import Tensor
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.misc import FrozenBatchNorm2d

from detseg.data.annotations import Annotations
from detseg.metrics import Detections, coco_ap, coco_results
from detseg.models import FasterRCNN
from detseg.models.weights import from_torchvision
from detseg.modules import FPN
from detseg.modules.backbones import ResNet
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


def evaluate() -> dict[str, Callable[[], object]]:
    """COCO's figures of a data set as large as val2017: 5,000 images, 500,000 detections.

    Ours starts with arrays. The others start with the dictionaries they take, which are made beforehand.
    """
    annotations, found = evaluation_case()
    places = np.repeat(annotations.image_ids, np.diff(annotations.offsets))
    sides = annotations.boxes[:, 2:] - annotations.boxes[:, :2]
    columns = {
        "id": annotations.ids,
        "image_id": places,
        "category_id": annotations.labels + 1,
        "bbox": np.concatenate([annotations.boxes[:, :2], sides], axis=1),
        "area": annotations.areas,
        "iscrowd": annotations.crowd.astype(np.int64),
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    truth = {
        "images": [{"id": number} for number in annotations.image_ids.tolist()],
        "categories": [{"id": number} for number in annotations.category_ids],
        "annotations": [dict(zip(columns, row, strict=True)) for row in rows],
    }
    results = coco_results(annotations, found)

    def peer(index: type, evaluation: type) -> Callable[[], object]:
        def run() -> object:
            with contextlib.redirect_stdout(io.StringIO()):
                objects = index()
                objects.dataset = truth
                objects.createIndex()
                run = evaluation(objects, objects.loadRes(results), "bbox")
                run.evaluate()
                run.accumulate()
                run.summarize()
            return run.stats[:12]

        return run

    return {
        "detseg": lambda: coco_ap(annotations, found),
        "faster-coco-eval": peer(faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster),
    }


def evaluation_case() -> tuple[Annotations, Detections]:
    """Objects as many and as clustered as in val2017, four in ten detections near one of them, 1 % crowds."""
    random = np.random.default_rng(0)
    images, classes, each = 5000, 80, 100
    counts = random.geometric(1 / 8.4, images) - 1
    total = int(counts.sum())
    there = random.choice(classes, (images, 3), p=1 / np.arange(1, classes + 1) / (1 / np.arange(1, classes + 1)).sum())
    labels = there[np.repeat(np.arange(images), counts), random.integers(0, 3, total)]
    boxes, sides = random_boxes(random, total)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    annotations = Annotations(
        classes=tuple(str(label) for label in range(classes)),
        category_ids=tuple(range(1, classes + 1)),
        root=Path(),
        files=np.arange(images).astype(np.str_),
        image_ids=np.arange(1, images + 1),
        sizes=np.tile(np.array([[HEIGHT, WIDTH]], np.int32), (images, 1)),
        offsets=offsets,
        boxes=boxes,
        labels=labels,
        areas=sides.prod(axis=1) * random.uniform(0.4, 1, total),
        crowd=random.random(total) < 0.012,
        difficult=np.zeros(total, bool),
        ids=np.arange(1, total + 1),
    )
    image = np.repeat(np.arange(images), each)
    near = (counts[image] > 0) & (random.random(len(image)) < 0.4)
    source = np.where(near, offsets[image] + (random.random(len(image)) * counts[image]).astype(int), 0)
    moved = boxes[source] + 0.1 * np.tile(sides[source], 2) * random.normal(size=(len(image), 4))
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
    somewhere = np.where(random.random(len(image)) < 0.5, there[image, 0], random.integers(0, classes, len(image)))
    scores = np.where(near, random.beta(2, 3, len(image)), random.beta(1, 6, len(image)))
    order = np.lexsort((-scores, image))
    found = Detections(
        image,
        np.where(near[:, None], moved, random_boxes(random, len(image))[0])[order],
        np.where(near, labels[source], somewhere)[order],
        scores[order],
    )
    return annotations, found


def random_boxes(random: np.random.Generator, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Boxes (count, 4) of all sizes inside the image, and their sides (count, 2)."""
    sides = np.exp(random.normal(4, 1, (count, 2))).clip(3, 400)
    corners = random.random((count, 2)) * (np.array([WIDTH, HEIGHT]) - sides)
    return np.concatenate([corners, corners + sides], axis=1), sides


PARTS = {"train": train, "infer": infer, "masks": masks, "evaluate": evaluate}


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
        ratio = min(value for name, value in median.items() if name != "detseg") / median["detseg"]
        print(
            f"{part:8}",
            *(f"{name} {1000 * value:.0f} ms" for name, value in median.items()),
            f"{ratio:.2f} x",
            sep="  ",
        )


if __name__ == "__main__":
    main()
