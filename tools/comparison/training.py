"""Train and measure one arm: ours by its task, torchvision's by a plain loop over the same batches."""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from comparison.arms import Arm, Data, torchvision_mask
from comparison.networks import network, torchvision_network
from lightning.pytorch import Trainer, seed_everything
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.roi_heads import paste_masks_in_image

from detseg.data import RandomHorizontalFlip, Resize
from detseg.metrics import CocoAP, annotation_targets
from detseg.structures import Batch
from detseg.tasks import DetectionTask, OptimizerConfig, ScheduleConfig

LR, WEIGHT_DECAY, WARMUP = 2e-4, 1e-4, 40
METRICS = ("AP", "AP50", "AP75", "mask_AP", "mask_AP50", "mask_AP75")


def run(arm: Arm, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Train an arm by the ``options`` of the command line; return its metrics and seconds of the processor."""
    seed_everything(seed, verbose=False)
    data = arm.data(
        str(options.root),
        options.format or "auto",
        transforms=[Resize(options.size, 2 * options.size), RandomHorizontalFlip()],
        batch_size=options.batch_size,
        num_workers=0,
        masks="all" if options.masks else "none",
    )
    data.only = tuple(options.classes)
    if options.split:
        data.evaluate_on(options.split)
    ours = network(arm, data.num_classes, options.masks, options.weights, options.regions)
    start = time.process_time()
    if arm.is_torchvision:
        theirs = torchvision_network(ours)
        train_torchvision(theirs, data, options.epochs)
        values = evaluate_torchvision(theirs, data)
    else:
        task = make_task(ours, options.batch_size)
        train_ours(task, data, options.epochs)
        values = task.metric_values
    metrics = {name: round(values[name], 5) for name in METRICS if name in values}
    return metrics | {"seconds": round(time.process_time() - start, 1)}


def make_task(model: Any, batch_size: int) -> DetectionTask:
    """Return the task with the settings that both sides are trained by."""
    return DetectionTask(
        model,
        lr=LR,
        reference_batch=batch_size,
        optimizer=OptimizerConfig("adamw", weight_decay=WEIGHT_DECAY),
        schedule=ScheduleConfig("cosine", warmup_steps=WARMUP),
    )


def train_ours(task: DetectionTask, data: Data, epochs: int) -> None:
    """Train and, at the end, measure a task."""
    Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        check_val_every_n_epoch=epochs,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(task, data)


def train_torchvision(model: TorchvisionFasterRCNN, data: Data, epochs: int) -> None:
    """Train torchvision's network by the optimizer and schedule of ``make_task``."""
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
                    objects = zip(batch.targets.masks[image][valid[image]], target["boxes"], strict=True)
                    masks = [torchvision_mask(batch, image, *one) for one in objects]
                    height, width = batch.image_sizes[image].tolist()
                    target["masks"] = torch.stack([torch.zeros(height, width, dtype=torch.uint8), *masks])[1:]
            optimizer.zero_grad()
            sum(model(images_of(batch), targets).values()).backward()
            optimizer.step()
            schedule.step()


@torch.inference_mode()
def evaluate_torchvision(model: TorchvisionFasterRCNN, data: Data) -> dict[str, float]:
    """Measure their boxes and masks by our evaluation; the masks are pasted into the image files as they do it."""
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


def images_of(batch: Batch) -> list[torch.Tensor]:
    """Return the images (3, h, w) of a batch as torchvision takes them."""
    return [image[:, :h, :w] / 255 for image, (h, w) in zip(batch.images, batch.image_sizes.tolist(), strict=True)]
