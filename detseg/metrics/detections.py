"""Detections and annotated objects of a whole data set, as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from faster_coco_eval.core import mask as coco_masks
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

ImageDict = Mapping[str, Any]
"""The objects of one image by name, as torchmetrics' ``MeanAveragePrecision`` takes them."""


class Detections(NamedTuple):
    """M detections on the images of a data set, in the order of the images."""

    images: NDArray[np.int64]  # (M,) position of the image
    boxes: NDArray[np.float64]  # (M, 4) xyxy, pixels of the image file
    labels: NDArray[np.int64]  # (M,) 0..K-1
    scores: NDArray[np.float64]  # (M,)
    masks: NDArray[np.object_] | None = None  # (M,) bytes, COCO's compressed run-length encodings


class GroundTruth(NamedTuple):
    """The annotated objects of I images. Those of image i are the rows ``offsets[i]`` to ``offsets[i + 1]``."""

    sizes: NDArray[np.int64]  # (I, 2) height and width; 0 where masks do not need them
    offsets: NDArray[np.int64]  # (I + 1,)
    boxes: NDArray[np.float64]  # (N, 4) xyxy, pixels of the image file
    labels: NDArray[np.int64]  # (N,) 0..K-1
    areas: NDArray[np.float64]  # (N,)
    crowd: NDArray[np.bool_]  # (N,)
    difficult: NDArray[np.bool_]  # (N,)
    masks: NDArray[np.object_] | None = None  # (N,) bytes, COCO's compressed run-length encodings
    image_index: NDArray[Any] | None = None  # (I,) position of each image in its data set
    image_ids: NDArray[Any] | None = None  # (I,) the data set's own id of each image

    @property
    def images(self) -> NDArray[np.int64]:
        """Position of the image of each object (N,)."""
        return np.repeat(np.arange(len(self.sizes)), np.diff(self.offsets))

    def take(self, images: NDArray[np.int64]) -> GroundTruth:
        """Keep the images at these positions, in this order."""
        counts = np.diff(self.offsets)[images]
        offsets = offsets_of(counts)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[images] - offsets[:-1], counts)
        per_object = (self.boxes, self.labels, self.areas, self.crowd, self.difficult, self.masks)
        per_image = (self.image_index, self.image_ids)
        return GroundTruth(
            self.sizes[images],
            offsets,
            *(None if column is None else column[rows] for column in per_object),  # type: ignore[arg-type]
            *(None if column is None else column[images] for column in per_image),
        )


class Annotations(Protocol):
    """The part of ``DetectionAnnotations`` that targets are made of."""

    @property
    def image_ids(self) -> NDArray[Any]: ...
    @property
    def sizes(self) -> NDArray[np.int32]: ...
    @property
    def boxes(self) -> NDArray[np.float64]: ...
    @property
    def labels(self) -> NDArray[np.int64]: ...
    @property
    def areas(self) -> NDArray[np.float64]: ...
    @property
    def crowd(self) -> NDArray[np.bool_]: ...
    @property
    def difficult(self) -> NDArray[np.bool_]: ...
    @property
    def masks(self) -> Any: ...

    def objects(self, image: int) -> slice:
        """Rows of the objects of one image."""


def annotation_targets(annotations: Annotations, image_index: Iterable[int]) -> list[dict[str, Any]]:
    """The targets of images of a data set, for ``DetectionMetric.update``; masks as run-length encodings."""
    targets = []
    for image in image_index:
        rows, size = annotations.objects(image), annotations.sizes[image].tolist()
        target = {
            "image_index": image,
            "image_id": annotations.image_ids[image].item(),
            "size": size,
            "boxes": torch.tensor(annotations.boxes[rows]),
            "labels": torch.tensor(annotations.labels[rows]),
            "area": torch.tensor(annotations.areas[rows]),
            "iscrowd": torch.tensor(annotations.crowd[rows]),
            "difficult": torch.tensor(annotations.difficult[rows]),
        }
        if annotations.masks is not None:
            target["masks"] = [annotations.masks.rle(row, *size) for row in range(rows.start, rows.stop)]
        targets.append(target)
    return targets


def ground_truth(targets: Sequence[ImageDict], masks: bool) -> GroundTruth:
    """Join the targets of some images, see ``DetectionMetric.update``; ``masks`` asks for their masks."""
    return concatenate([_one_image(target, masks) for target in targets])


def _one_image(target: ImageDict, masks: bool) -> GroundTruth:
    uses_masks = "masks" in target and (masks or "boxes" not in target)
    rle = encode(target["masks"], target.get("size")) if uses_masks else None
    boxes = as_array(target["boxes"] if rle is None or "boxes" in target else boxes_around(rle), np.float64)
    boxes = boxes.reshape(-1, 4)
    if target.get("area") is not None:
        areas = as_array(target["area"], np.float64)
    else:
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) if rle is None else mask_areas(rle)
    no = np.zeros(len(boxes), dtype=bool)
    image_id = target.get("image_id")
    index = target.get("image_index", image_id)
    truth = GroundTruth(
        sizes=np.array([_size(target)], dtype=np.int64),
        offsets=np.array([0, len(boxes)]),
        boxes=boxes,
        labels=as_array(target["labels"], np.int64),
        areas=areas,
        crowd=as_array(target.get("iscrowd", no), np.bool_),
        difficult=as_array(target.get("difficult", no), np.bool_),
        masks=None if rle is None or not masks else counts_of(rle),
        image_index=None if index is None else np.array([index]),
        image_ids=None if image_id is None else np.array([image_id]),
    )
    columns = (truth.labels, truth.areas, truth.crowd, truth.difficult, truth.masks)
    if any(column is not None and len(column) != len(boxes) for column in columns):
        raise ValueError("boxes, labels, masks, area and iscrowd of an image must be as many")
    return truth


def _size(target: ImageDict) -> tuple[int, int]:
    """Height and width of the image, from its masks if they tell; else 0."""
    masks = target.get("masks", ())
    default = masks.shape[-2:] if isinstance(masks, (Tensor, np.ndarray)) else (0, 0)
    height, width = target.get("size", default)
    return int(height), int(width)


def concatenate(parts: Sequence[GroundTruth]) -> GroundTruth:
    """Put the images of several parts one behind the other. Raises ValueError if only some have masks or indices."""
    parts = [part for part in parts if len(part.sizes)]
    if not parts:
        no_flags, no_labels = np.zeros(0, bool), np.zeros(0, np.int64)
        return GroundTruth(
            np.zeros((0, 2), np.int64), offsets_of([]), np.zeros((0, 4)), no_labels, np.zeros(0), no_flags, no_flags
        )
    columns: dict[str, Any] = {}
    for name, column in zip(GroundTruth._fields, zip(*parts, strict=True), strict=True):
        if any((part is None) != (column[0] is None) for part in column):
            raise ValueError(f"some targets have {name}, and others do not")
        columns[name] = None if column[0] is None else np.concatenate(column)
    columns["offsets"] = offsets_of(np.concatenate([np.diff(part.offsets) for part in parts]))
    return GroundTruth(**columns)


def encode(masks: Any, size: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """COCO's compressed run-length encodings of masks (n, h, w).

    A list holds run-length encodings already: dictionaries, or their ``counts`` alone in an image of ``size`` (height,
    width).
    """
    if isinstance(masks, (Tensor, np.ndarray)):
        pixels = as_array(masks, np.uint8).transpose(1, 2, 0)
        return list(coco_masks.encode(np.asfortranarray(pixels)))
    return [dict(one) if isinstance(one, Mapping) else {"size": list(size or ()), "counts": one} for one in masks]


def counts_of(rle: Sequence[Mapping[str, Any]]) -> NDArray[np.object_]:
    """The ``counts`` of run-length encodings as an array (n,) of bytes."""
    counts = [one["counts"] for one in rle]
    return as_objects([one.encode() if isinstance(one, str) else one for one in counts])


def as_objects(values: Sequence[bytes]) -> NDArray[np.object_]:
    """An array (n,) of bytes of different lengths."""
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def boxes_around(rle: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """The boxes (n, 4), xyxy, around masks."""
    boxes = np.array(coco_masks.toBbox(list(rle)), dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def mask_areas(rle: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """Count the pixels (n,) of masks."""
    return np.asarray(coco_masks.area(list(rle)), dtype=np.float64).reshape(-1)


def as_array(values: Any, dtype: Any) -> NDArray[Any]:
    """A tensor, an array or a list as an array of this type."""
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=dtype)


def offsets_of(counts: ArrayLike) -> NDArray[np.int64]:
    """The row at which each group begins, and at the last place the end of the last one."""
    return np.concatenate([[0], np.cumsum(np.asarray(counts, dtype=np.int64))])
