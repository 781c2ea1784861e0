"""The base of metrics of detection: accumulates detections and annotated objects over batches and ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from detseg.metrics.base import PerClassMetric
from detseg.metrics.detection_batch import (
    DetectionBatch,
    detections_of,
    from_dicts,
    from_instances,
    image_rle,
    merge,
    present,
)
from detseg.metrics.detections import Detections, GroundTruth, ImageDict, ground_truth
from detseg.ops.rle import decode, from_string
from detseg.structures import Instances


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
        truth = ground_truth(target, self.uses_masks)
        if self.classes and len(truth.labels) and not 0 <= truth.labels.min() <= truth.labels.max() < len(self.classes):
            raise ValueError(f"targets have labels beyond the {len(self.classes)} classes")
        if isinstance(preds, Instances):
            self.batches.append(from_instances(preds, truth, self.uses_masks))
        else:
            self.batches.append(from_dicts(preds, truth, self.uses_masks))

    def reset(self) -> None:
        super().reset()
        self.detections = self.ground_truth = None
        self.computed_classes = ()

    def collect(self) -> tuple[GroundTruth, Detections, tuple[str, ...]]:
        """Objects and detections ordered by image, and the names of the classes 0..K-1."""
        batch = merge(self.batches)
        truth, detections = _ordered(batch.truth, detections_of(batch))
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
        batches: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(batches, merge(self.batches), group)
        self.batches = batches

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
    images = position[detections.images]
    # Stable: the detections of one image keep the order in which the model gave them.
    rows = np.argsort(images, kind="stable")[np.count_nonzero(images < 0) :]
    columns = (None if column is None else column[rows] for column in (images, *detections[1:]))
    return truth.take(order), Detections(*columns)  # type: ignore[arg-type]


def as_torchmetrics(
    preds: Instances, targets: Sequence[ImageDict]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Turn a batch and its targets into tensors by image, as metrics of torchmetrics take them; masks are (n, h, w)."""
    device = preds.boxes.device
    predicted, expected = [], []
    for image, target in enumerate(targets):
        valid = preds.valid[image]
        columns = {"boxes": preds.boxes, "scores": preds.scores, "labels": preds.labels}
        predicted.append({name: present(column, name)[image][valid] for name, column in columns.items()})
        expected.append({name: value.to(device) for name, value in target.items() if isinstance(value, Tensor)})
        if preds.masks is not None and "masks" in target:
            predicted[-1]["masks"] = _pixels(image_rle(preds, image, *target["size"]), target["size"]).to(device)
            expected[-1]["masks"] = _pixels(target["masks"], target["size"]).to(device)
    return predicted, expected


def _pixels(rle: Sequence[bytes], size: Sequence[int]) -> Tensor:
    masks = [decode(from_string(one), *size) for one in rle]
    return torch.from_numpy(np.stack(masks) if masks else np.zeros((0, *size), dtype=bool))
