"""Speed of detectors: training steps and inference, beside torchvision and, where it can be imported, detectron2."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from benchmarks import detectron2
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.misc import FrozenBatchNorm2d

from detseg.models import Detector, FasterRCNN, MaskRCNN
from detseg.modules import FPN, RPN, AnchorGenerator
from detseg.modules.backbones import MobileNetV3, ResNet
from detseg.ops.masks import BOX_MASK_SIZE
from detseg.ops.rle import box_masks_to_rle
from detseg.structures import Batch, Instances
from detseg.tasks.compilation import compiled
from detseg.weights.torchvision import from_torchvision

CLASSES, OBJECTS = 80, 10
MASKED_OBJECTS = 60  # so many that every image has its 128 regions of objects

Call = Callable[[], object]


class Shape(NamedTuple):
    """Images of a training step, and the pixels of each."""

    images: int = 2
    height: int = 480
    width: int = 640


def models(device: str, shape: Shape, masks: bool = False) -> dict[str, nn.Module]:
    """Faster or Mask R-CNN R50-FPN of each side: stem, first stage and batch norm frozen, the same random weights.

    The untrained network is made to behave like a trained one where time depends on it: activations stay O(1), and some
    hundred (region, class) pairs pass the score threshold.
    """
    torch.manual_seed(0)
    height, width = shape[1:]
    body = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3)
    cls = TorchvisionMaskRCNN if masks else TorchvisionFasterRCNN
    sides = {"min_size": min(height, width), "max_size": max(height, width)}
    theirs = cls(body, CLASSES + 1, **sides)
    with torch.no_grad():
        images = torch.rand(1, 3, height, width) * 4 - 2
        calibrate(body.body, images)
        for layer, feature in zip(theirs.backbone.fpn.layer_blocks, theirs.backbone(images).values(), strict=False):
            layer[0].weight /= feature.std()
    theirs.roi_heads.box_predictor.cls_score.weight.data.normal_(std=0.15)
    backbone = FPN(ResNet("resnet50", norm="frozen", frozen=2))
    ours = (MaskRCNN if masks else FasterRCNN)(backbone, CLASSES)
    ours.load_state_dict(from_torchvision(theirs.state_dict()))
    layout = {"device": device, "memory_format": torch.channels_last}
    sides_by_name = {"detseg": ours.to(**layout), "torchvision": theirs.to(**layout)}  # type: ignore[call-overload]
    if detectron2.there():
        sides_by_name["detectron2"] = detectron2.model(ours, CLASSES, masks, device)
    return sides_by_name


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


def batch(shape: Shape, device: str, count: int = OBJECTS, masks: bool = False) -> Batch:
    """Images with ``count`` objects of 20 to 200 pixels a side; their masks are the ellipses in their boxes."""
    torch.manual_seed(1)
    size, height, width = shape
    images = torch.randint(0, 256, (size, 3, height, width), dtype=torch.uint8)
    sides = (20 + 180 * torch.rand(size, count, 2)).minimum(torch.tensor([width, height]) / 2)
    corner = torch.rand(size, count, 2) * (torch.tensor([width, height]) - sides)
    boxes = torch.cat([corner, corner + sides], dim=-1)
    cells = (torch.arange(BOX_MASK_SIZE) + 0.5) / BOX_MASK_SIZE * 2 - 1
    circle = (255 * (cells[:, None] ** 2 + cells**2 <= 1)).to(torch.uint8)
    targets = Instances(
        boxes,
        torch.ones(size, count, dtype=torch.bool),
        torch.randint(0, CLASSES, (size, count)),
        masks=circle.expand(size, count, -1, -1).contiguous() if masks else None,
    )
    sizes = torch.tensor([[height, width]]).repeat(size, 1)
    whole = Batch(images.contiguous(memory_format=torch.channels_last), sizes, targets, torch.arange(size), sizes)
    return tree_map(lambda value: value if value is None else value.to(device), whole)  # type: ignore[no-any-return]


def maps(data: Batch) -> list[Tensor]:
    """The masks as torchvision takes them: of each image (N, H, W)."""
    height, width = data.images.shape[-2:]
    y, x = ((torch.arange(length, device=data.images.device) + 0.5) for length in (height, width))
    masks = []
    for boxes in data.targets.boxes:
        middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
        across = ((x - middle[:, :1]) / half[:, :1]) ** 2
        down = ((y - middle[:, 1:]) / half[:, 1:]) ** 2
        masks.append((down[:, :, None] + across[:, None] <= 1).to(torch.uint8))
    return masks


def polygons(data: Batch) -> list[list[Tensor]]:
    """The masks as detectron2 takes them: corners (27, 2) of each object of each image."""
    angles = torch.arange(27) * (2 * math.pi / 27)
    circle = torch.stack([angles.cos(), angles.sin()], dim=1) / 2 + 0.5
    return [[box[:2] + circle * (box[2:] - box[:2]) for box in boxes.cpu()] for boxes in data.targets.boxes]


def train(
    device: str,
    half: bool,
    shape: Shape = Shape(),  # noqa: B008
    masks: bool = False,
    compile_loss: bool = False,
) -> dict[str, Call]:
    """One training step: forward, backward, SGD."""
    sides = models(device, shape, masks)
    return steps(sides, batch(shape, device, MASKED_OBJECTS if masks else OBJECTS, masks), device, half, compile_loss)


def steps(sides: dict[str, nn.Module], data: Batch, device: str, half: bool, compile_loss: bool) -> dict[str, Call]:
    """A training step of each side; ``compile_loss`` is of ours."""
    assert data.targets.labels is not None
    images = [image / 255 for image in data.images]
    pairs = zip(data.targets.boxes, data.targets.labels, strict=True)
    targets: list[dict[str, Tensor]] = [{"boxes": boxes, "labels": labels + 1} for boxes, labels in pairs]
    if data.targets.masks is not None:
        targets = [target | {"masks": masks} for target, masks in zip(targets, maps(data), strict=True)]
    loss: Any = sides["detseg"].loss
    loss = compiled(loss) if compile_loss else loss
    losses: dict[str, Callable[[], dict[str, Tensor]]] = {
        "detseg": lambda: loss(data),
        "torchvision": lambda: sides["torchvision"](images, targets),
    }
    if "detectron2" in sides:
        inputs = detectron2.samples(data, None if data.targets.masks is None else polygons(data))
        losses["detectron2"] = lambda: detectron2.recorded(lambda: sides["detectron2"](inputs))
    return {name: step(sides[name].train(), loss, device, half) for name, loss in losses.items()}


def step(model: nn.Module, loss: Callable[[], dict[str, Tensor]], device: str, half: bool) -> Call:
    # A learning rate of zero keeps the work of every step the same. Fused, it is the quickest there is, for every side.
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9, weight_decay=1e-4, fused=True)

    def run() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=half):
            total = torch.stack(list(loss().values())).sum()
        total.backward()
        optimizer.step()

    return run


def infer(device: str, half: bool, shape: Shape = Shape(), masks: bool = False) -> dict[str, Call]:  # noqa: B008
    """Detections of one image, with masks of the size of the image: RLE of ours, maps of the peers."""
    shape = shape._replace(images=1)
    sides = {name: model.eval() for name, model in models(device, shape, masks).items()}
    data = batch(shape, device)
    image = data.images[0] / 255

    def ours() -> Any:
        detections = sides["detseg"](data.images, data.image_sizes)
        if masks:
            texts = list(
                box_masks_to_rle(
                    detections.masks[0].float().cpu().numpy(), detections.boxes[0].cpu().numpy(), *shape[1:]
                )
            )
        return texts if masks else detections

    calls: dict[str, Call] = {"detseg": ours, "torchvision": lambda: sides["torchvision"]([image])}
    if "detectron2" in sides:
        inputs = detectron2.samples(data, None)
        calls["detectron2"] = lambda: sides["detectron2"](inputs)
    within = torch.autocast(device, torch.bfloat16, enabled=half)
    return {name: torch.inference_mode()(within(call)) for name, call in calls.items()}


mask_train = partial(train, masks=True)
mask_infer = partial(infer, masks=True)


def mobilenet_train(
    device: str,
    half: bool,
    shape: Shape = Shape(),  # noqa: B008
    compile_loss: bool = False,
) -> dict[str, Call]:
    """One training step of torchvision's fasterrcnn_mobilenet_v3_large_320_fpn."""
    torch.manual_seed(0)
    sides = {"min_size": min(shape[1:]), "max_size": max(shape[1:])}
    theirs = fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES + 1, trainable_backbone_layers=6, **sides
    )
    norms = [module for module in theirs.modules() if isinstance(module, nn.BatchNorm2d)]
    for parent in list(theirs.modules()):
        for name, layer in list(parent.named_children()):
            if layer in norms:
                setattr(parent, name, FrozenBatchNorm2d(layer.num_features, layer.eps))
    with torch.no_grad():
        calibrate(theirs.backbone.body, torch.rand(1, 3, *shape[1:]) * 4 - 2)
    body = MobileNetV3("mobilenet_v3_large", stages=[5], return_stage_start=True, norm="frozen", frozen=3, eps=1e-5)
    anchors = AnchorGenerator([[32, 64, 128, 256, 512]] * 3)
    rpn = RPN(anchors, pre_nms_top_n=(2000, 150), post_nms_top_n=(2000, 150), score_threshold=0.05)
    ours: Detector = FasterRCNN(FPN(body), CLASSES, rpn)
    ours.load_state_dict(from_torchvision(theirs.state_dict()))
    frozen = {name for name, value in ours.named_parameters() if not value.requires_grad}
    for name, value in theirs.named_parameters():  # without weights it would train every layer
        value.requires_grad_(name.replace("backbone.body.", "backbone.backbone.features.") not in frozen)
    layout = {"device": device, "memory_format": torch.channels_last}
    both = {"detseg": ours.to(**layout), "torchvision": theirs.to(**layout)}  # type: ignore[call-overload]
    return steps(both, batch(shape, device), device, half, compile_loss)
