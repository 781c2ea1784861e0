"""Train detseg's Faster R-CNN and torchvision's on a folder, from equal weights by one schedule, and compare AP.

    python tools/compare.py my/folder --weights mobilenet_v2.pth --epochs 5 --seeds 0 1 2
    python tools/compare.py my/folder --masks --weights mobilenet_v2.pth --epochs 30

With ``--masks`` it is Mask R-CNN, and the AP of masks beside that of boxes. Ours is trained by its own task,
torchvision's by a plain loop over the same batches; both are measured by the same COCO evaluation. Both networks are
MobileNetV2 with a feature pyramid, from trained weights: from random ones our BatchNorms would be trained and
torchvision's, which are frozen, not.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import torchvision
from lightning.pytorch import Trainer, seed_everything
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops.misc import FrozenBatchNorm2d

from detseg.data import DetectionDataModule, RandomHorizontalFlip, Resize
from detseg.metrics import CocoAP, annotation_targets
from detseg.models import FasterRCNN, MaskRCNN
from detseg.models.mask_rcnn import MaskRCNNHeads
from detseg.modules import FPN, BalancedSampler, RoIHeads
from detseg.modules.backbones import MobileNetV2
from detseg.ops.rle import paste_mask
from detseg.structures import Batch
from detseg.tasks import DetectionTask, OptimizerConfig, ScheduleConfig
from detseg.weights.torchvision import to_torchvision

LR, WEIGHT_DECAY, WARMUP = 2e-4, 1e-4, 40
CHANNELS = 128  # of the pyramid: half of the usual, for a CPU


def network(data: DetectionDataModule, weights: str, regions: int) -> FasterRCNN | MaskRCNN:
    pyramid = FPN(MobileNetV2(weights=weights), channels=CHANNELS)
    sampler = BalancedSampler(regions, positive_fraction=0.25)
    if data.masks != "none":
        return MaskRCNN(pyramid, data.num_classes, roi_heads=MaskRCNNHeads(sampler=sampler))
    return FasterRCNN(pyramid, data.num_classes, roi_heads=RoIHeads(sampler=sampler))


def torchvision_network(ours: FasterRCNN | MaskRCNN) -> TorchvisionFasterRCNN:
    """torchvision's network with the weights that ours has now, and the same parameters frozen."""
    features = torchvision.models.mobilenet_v2(norm_layer=FrozenBatchNorm2d).features
    stages = {"3": "0", "6": "1", "13": "2", "18": "3"}
    cls = TorchvisionMaskRCNN if isinstance(ours, MaskRCNN) else TorchvisionFasterRCNN
    model = cls(
        BackboneWithFPN(features, stages, [24, 32, 96, 1280], CHANNELS),
        ours.num_classes + 1,
        rpn_anchor_generator=AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5),
        box_batch_size_per_image=ours.roi_heads.sampler.batch_size_per_image,
    )
    model.load_state_dict(to_torchvision(ours.state_dict()))
    frozen = {name for name, parameter in ours.named_parameters() if not parameter.requires_grad}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.replace("backbone.body.", "backbone.backbone.features.") not in frozen)
    model.transform.resize = lambda image, target: (image, target)  # the batches are resized already
    return model


def images_of(batch: Batch) -> list[torch.Tensor]:
    return [image[:, :h, :w] / 255 for image, (h, w) in zip(batch.images, batch.image_sizes.tolist(), strict=True)]


def whole_masks(batch: Batch, image: int, there: torch.Tensor) -> torch.Tensor:
    """The masks (n, h, w) uint8 of the objects of an image."""
    height, width = batch.image_sizes[image].tolist()
    objects = zip(batch.targets.masks[image][there].numpy(), batch.targets.boxes[image][there].numpy(), strict=True)
    pasted = [paste_mask(mask / np.float32(255), box, height, width).full_mask(height, width) for mask, box in objects]
    return torch.from_numpy(np.array(pasted, dtype=np.uint8).reshape(-1, height, width))


def train_torchvision(model: TorchvisionFasterRCNN, data: DetectionDataModule, epochs: int) -> None:
    loader = data.train_dataloader()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, LR, weight_decay=WEIGHT_DECAY)
    warmup = min(WARMUP, len(loader))  # no longer than an epoch, as in ours
    factor = ScheduleConfig("cosine").factor(warmup, [], epochs * len(loader))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    model.train()
    for epoch in range(epochs):
        loader.batch_sampler.set_epoch(epoch)
        for batch in loader:
            labels, valid = batch.targets.labels, batch.targets.valid
            targets = [
                {"boxes": boxes[there], "labels": classes[there] + 1}
                for boxes, classes, there in zip(batch.targets.boxes, labels, valid, strict=True)
            ]
            if batch.targets.masks is not None:
                for image, target in enumerate(targets):
                    target["masks"] = whole_masks(batch, image, valid[image])
            optimizer.zero_grad()
            sum(model(images_of(batch), targets).values()).backward()
            optimizer.step()
            schedule.step()


@torch.inference_mode()
def evaluate_torchvision(model: TorchvisionFasterRCNN, data: DetectionDataModule) -> dict[str, float]:
    """Their boxes and masks by our evaluation; the masks are pasted into the image files as torchvision does."""
    metric = CocoAP(data.classes)
    model.eval()
    for batch in data.val_dataloader():
        # Without its own post-processing: it would paste into the resized images.
        images, _ = model.transform(images_of(batch))
        features = model.backbone(images.tensors)
        proposals, _ = model.rpn(images, features)
        detections, _ = model.roi_heads(features, proposals, images.image_sizes)
        scales = (batch.original_sizes / batch.image_sizes).flip(1).repeat(1, 2)
        for one, scale, (height, width) in zip(detections, scales, batch.original_sizes.tolist(), strict=True):
            one["boxes"], one["labels"] = one["boxes"] * scale, one["labels"] - 1
            if "masks" in one:
                one["masks"] = paste_masks_in_image(one["masks"], one["boxes"], (height, width))[:, 0] >= 0.5
        metric.update(detections, annotation_targets(data.val_annotations, batch.image_index.tolist()))
    return metric.compute()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--masks", action="store_true", help="compare Mask R-CNN")
    parser.add_argument("--weights", required=True, help="MobileNetV2's, a file")
    parser.add_argument("--format", help="of the folder, where it holds labels in more than one")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--size", type=int, default=192, help="short edge of the images in pixels")
    parser.add_argument("--regions", type=int, default=64, help="that the heads learn from in an image")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    shown = ("AP", "AP50", "mask_AP", "mask_AP50") if arguments.masks else ("AP", "AP50")
    results: dict[str, list[list[float]]] = {"detseg": [], "torchvision": []}
    for seed in arguments.seeds:
        seed_everything(seed)
        transforms = [Resize(arguments.size, 2 * arguments.size), RandomHorizontalFlip()]
        data = DetectionDataModule(
            str(arguments.root),
            arguments.format,
            transforms=transforms,
            batch_size=arguments.batch_size,
            num_workers=0,
            masks="all" if arguments.masks else "none",
        )
        ours = network(data, arguments.weights, arguments.regions)
        theirs = torchvision_network(ours)
        task = DetectionTask(
            ours,
            lr=LR,
            reference_batch=arguments.batch_size,
            optimizer=OptimizerConfig("adamw", weight_decay=WEIGHT_DECAY),
            schedule=ScheduleConfig("cosine", warmup_steps=WARMUP),
        )
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=arguments.epochs,
            check_val_every_n_epoch=arguments.epochs,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        start = time.perf_counter()
        trainer.fit(task, data)
        middle = time.perf_counter()
        train_torchvision(theirs, data, arguments.epochs)
        figures = {"detseg": task.metric_values, "torchvision": evaluate_torchvision(theirs, data)}
        seconds = {"detseg": middle - start, "torchvision": time.perf_counter() - middle}
        for name, values in figures.items():
            results[name].append([values[figure] for figure in shown])
            metrics = "  ".join(f"{figure} {values[figure]:.3f}" for figure in shown)
            print(f"seed {seed}  {name:12} {metrics}  {seconds[name]:.0f} s", flush=True)
    for name, runs in results.items():
        means = "  ".join(
            f"{figure} {statistics.mean(column):.3f}"
            for figure, column in zip(shown, zip(*runs, strict=True), strict=True)
        )
        print(f"mean    {name:12} {means}  of {len(runs)} seeds")


if __name__ == "__main__":
    main()
