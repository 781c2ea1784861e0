"""The base of metrics of detection: accumulates detections and annotated objects over batches and ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from detseg.metrics.base import PerClassMetric
from detseg.metrics.detections import (
    DetectionBatch,
    Detections,
    GroundTruth,
    ImageDict,
    concatenate,
    detections_of,
    image_rle,
    read_predictions,
    read_target,
)
from detseg.ops.rle import decode, from_string
from detseg.structures import Instances, to_device


class DetectionMetric(PerClassMetric):
    """Accumulate detections and annotated objects; a subclass computes its values from all of them with ``collect``.

    Detections stay on their device, padded, until ``compute``: an update never waits for the device. Masks alone become
    run-length encodings at once, since those of a whole data set would fill the memory.

    Without ``classes``, labels are any numbers, and each is the name of its class. With ``classes``, detections of
    other labels do not count.

    After ``compute``, ``detections`` and ``ground_truth`` are those of all ranks, without duplicates, and
    ``computed_classes`` the names of their classes.
    """

    uses_masks: ClassVar[bool] = False
    batches: list[DetectionBatch]

    def __init__(self, classes: Sequence[str] | None = None, **kwargs: Any) -> None:
        super().__init__(classes, **kwargs)
        self.add_state("batches", default=[], dist_reduce_fx=None)
        self.detections: Detections | None = None
        self.ground_truth: GroundTruth | None = None
        self.computed_classes: tuple[str, ...] = ()

    def update(self, preds: Instances | Sequence[ImageDict], target: Sequence[ImageDict]) -> None:
        """Add images.

        ``preds`` is a batch of ``Instances`` in pixels of the image files, with masks (B, N, S, S) over the boxes; or
        for each image a dictionary of ``boxes`` (n, 4) xyxy, ``scores`` (n,), ``labels`` (n,) and, optionally,
        ``masks``: (n, h, w), or COCO's compressed run-length encodings.

        ``target`` is for each image a dictionary of ``boxes``, ``labels`` and, optionally, ``masks``, ``area`` (by
        default that of the mask, or else of the box), ``iscrowd``, ``difficult`` (n,); ``size`` (height, width;
        required for masks of ``Instances``); ``image_index``, the position of the image in the data set, and
        ``image_id``. Detections of equal score count in the order of ``image_index`` (``CocoAP``: of ``image_id``), and
        an image that is added again, as by samplers that fill up the last batch, is left out. Without them, every entry
        is another image, in the order of the updates.

        Raises ValueError if the two do not fit.
        """
        images = len(preds.valid) if isinstance(preds, Instances) else len(preds)
        if images != len(target):
            raise ValueError(f"predictions of {images} images, but targets of {len(target)}")
        targets = [read_target(one, self.uses_masks) for one in target]
        labels = np.concatenate([np.zeros(0, np.int64), *(one.labels for one in targets)])
        if self.classes and len(labels) and not 0 <= labels.min() <= labels.max() < len(self.classes):
            raise ValueError(f"targets have labels beyond the {len(self.classes)} classes")
        if not isinstance(preds, Instances):
            self.batches.append(DetectionBatch(*read_predictions(preds, self.uses_masks), targets))
            return
        for name in ("labels", "scores"):
            if getattr(preds, name) is None:
                raise ValueError(f"detections have no {name}")
        masks: list[list[bytes] | None] = [None] * images
        if self.uses_masks and preds.masks is not None:
            if not all(one.sizes.all() for one in targets):
                raise ValueError("masks of Instances need the size (height, width) of every image in the targets")
            masks = [image_rle(preds, image, *one.sizes[0].tolist()) for image, one in enumerate(targets)]
        self.batches.append(DetectionBatch(preds._replace(masks=None), masks, targets))

    def reset(self) -> None:
        super().reset()
        self.detections = self.ground_truth = None
        self.computed_classes = ()

    def collect(self) -> tuple[GroundTruth, Detections, tuple[str, ...]]:
        """Objects and detections ordered by image, and the names of the classes 0..K-1."""
        targets = [target for batch in self.batches for target in batch.targets]
        truth, detections = _ordered(concatenate(targets), detections_of(self.batches))
        classes = self.classes
        if not classes:
            present, labels = np.unique(np.concatenate([truth.labels, detections.labels]), return_inverse=True)
            classes = tuple(map(str, present.tolist()))
            truth = truth._replace(labels=labels[: len(truth.labels)])
            detections = detections._replace(labels=labels[len(truth.labels) :])
        self.ground_truth, self.detections, self.computed_classes = truth, detections, classes
        return truth, detections, classes

    def _sync_dist(
        self, dist_sync_fn: Callable[..., Any] = gather_all_tensors, process_group: Any | None = None
    ) -> None:
        """Gather the batches of all ranks as objects; a rank may have none."""
        group = process_group or self.process_group
        on_host = [replace(batch, preds=to_device(batch.preds, torch.device("cpu"))) for batch in self.batches]
        ranks: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(ranks, on_host, group)
        self.batches = [batch for batches in ranks for batch in batches]

    def _apply(self, fn: Callable[..., Any], exclude_state: Sequence[str] = "") -> Any:
        """Leave the batches on their device: they are no tensors."""
        return super()._apply(fn, exclude_state=["batches", *exclude_state])


def _ordered(truth: GroundTruth, detections: Detections) -> tuple[GroundTruth, Detections]:
    """Order by ``image_index``, and keep one of images that have the same."""
    order = np.arange(len(truth.sizes))
    if truth.image_index is not None:
        order = np.unique(truth.image_index, return_index=True)[1]
    position = np.full(len(truth.sizes), -1)
    position[order] = np.arange(len(order))

    def ordered(columns: Sequence[Any]) -> list[Any]:
        images = position[columns[0]]
        # Stable: the detections of one image keep the order in which the model gave them.
        rows = np.argsort(images, kind="stable")[np.count_nonzero(images < 0) :]
        return [None if column is None else column[rows] for column in (images, *columns[1:])]

    of_images = (None if column is None else column[order] for column in truth[7:])
    return GroundTruth(*ordered(truth[:7]), *of_images), Detections(*ordered(detections))


def as_torchmetrics(
    preds: Instances | Sequence[ImageDict], targets: Sequence[ImageDict]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Turn detections and targets into tensors by image, as metrics of torchmetrics take them; masks are (n, h, w)."""
    if isinstance(preds, Instances):
        preds = [_image_dict(preds, image, target) for image, target in enumerate(targets)]
    predicted, expected = [], []
    for image, target in zip(preds, targets, strict=True):
        boxes = torch.as_tensor(image["boxes"])
        device = boxes.device
        columns = {name: torch.as_tensor(image[name], device=device) for name in ("scores", "labels")}
        predicted.append({"boxes": boxes, **columns})
        expected.append({name: value.to(device) for name, value in target.items() if isinstance(value, Tensor)})
        if "masks" in image and "masks" in target:
            predicted[-1]["masks"] = _pixels(image["masks"], target["size"]).to(device)
            expected[-1]["masks"] = _pixels(target["masks"], target["size"]).to(device)
    return predicted, expected


def _image_dict(preds: Instances, image: int, target: ImageDict) -> dict[str, Any]:
    """Return the detections of one image of a batch."""
    valid = preds.valid[image]
    columns: dict[str, Any] = {name: getattr(preds, name)[image][valid] for name in ("boxes", "scores", "labels")}
    if preds.masks is not None and "masks" in target:
        columns["masks"] = image_rle(preds, image, *target["size"])
    return columns


def _pixels(rle: Sequence[bytes], size: Sequence[int]) -> Tensor:
    masks = [decode(from_string(one), *size) for one in rle]
    return torch.from_numpy(np.stack(masks) if masks else np.zeros((0, *size), dtype=bool))
