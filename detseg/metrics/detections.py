"""Detections and annotated objects: of single images as metrics take them, of a whole data set as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from faster_coco_eval.core import mask as coco_masks
from numpy.typing import NDArray
from torch import Tensor

from detseg.ops.rle import box_masks_to_rle
from detseg.structures import Instances

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
    """N annotated objects on I images, in the order of the images."""

    images: NDArray[np.int64]  # (N,) position of the image
    boxes: NDArray[np.float64]  # (N, 4) xyxy, pixels of the image file
    labels: NDArray[np.int64]  # (N,) 0..K-1
    areas: NDArray[np.float64]  # (N,)
    crowd: NDArray[np.bool_]  # (N,)
    difficult: NDArray[np.bool_]  # (N,)
    masks: NDArray[np.object_] | None  # (N,) bytes, COCO's compressed run-length encodings
    sizes: NDArray[np.int64]  # (I, 2) height and width; 0 where masks do not need them
    image_index: NDArray[Any] | None = None  # (I,) position of each image in its data set
    image_ids: NDArray[Any] | None = None  # (I,) the data set's own id of each image


NO_DETECTIONS = Instances(
    torch.zeros(0, 0, 4), torch.zeros(0, 0, dtype=torch.bool), torch.zeros(0, 0, dtype=torch.int64), torch.zeros(0, 0)
)
_NO_LABELS, _NO_FLAGS = np.zeros(0, np.int64), np.zeros(0, bool)
NO_OBJECTS = GroundTruth(
    _NO_LABELS, np.zeros((0, 4)), _NO_LABELS, np.zeros(0), _NO_FLAGS, _NO_FLAGS, None, np.zeros((0, 2), np.int64)
)


@dataclass(frozen=True, eq=False)  # hashed by its identity: torchmetrics hashes the states of a metric
class DetectionBatch:
    """Detections of some images, padded and on their device, and the objects in these images."""

    preds: Instances  # without masks
    masks: list[list[bytes] | None]  # of the detections of each image
    targets: list[GroundTruth]  # of each image


def annotation_targets(annotations: Any, image_index: Iterable[int]) -> list[dict[str, Any]]:
    """The targets of images of ``DetectionAnnotations``, for ``DetectionMetric.update``; masks run-length encoded."""
    targets = []
    for image in image_index:
        rows, size = annotations.objects(image), annotations.sizes[image].tolist()
        target = {"image_index": image, "image_id": annotations.image_ids[image].item(), "size": size}
        columns = {"boxes": annotations.boxes, "labels": annotations.labels, "area": annotations.areas}
        columns |= {"iscrowd": annotations.crowd, "difficult": annotations.difficult}
        target |= {name: torch.tensor(column[rows]) for name, column in columns.items()}
        if annotations.masks is not None:
            target["masks"] = [annotations.masks.rle(row, *size) for row in range(rows.start, rows.stop)]
        targets.append(target)
    return targets


def read_target(target: ImageDict, masks: bool) -> GroundTruth:
    """Read the target of an image, see ``DetectionMetric.update``; ``masks`` asks for its masks."""
    boxes, rle = _shapes(target, masks)
    boxes = _array(boxes, np.float64).reshape(-1, 4)
    no = np.zeros(len(boxes), dtype=bool)
    if target.get("area") is not None:
        areas = _array(target["area"], np.float64)
    else:
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) if rle is None else coco_masks.area(rle)
    pixels = target.get("masks")  # tell the size, unless they are encoded
    size = target.get("size", pixels.shape[-2:] if isinstance(pixels, (Tensor, np.ndarray)) else (0, 0))
    image_id = target.get("image_id")
    index = target.get("image_index", image_id)
    truth = GroundTruth(
        images=np.zeros(len(boxes), dtype=np.int64),
        boxes=boxes,
        labels=_array(target["labels"], np.int64),
        areas=_array(areas, np.float64).reshape(-1),
        crowd=_array(target.get("iscrowd", no), np.bool_),
        difficult=_array(target.get("difficult", no), np.bool_),
        masks=None if rle is None or not masks else _objects([one["counts"] for one in rle]),
        sizes=np.array([[*map(int, size)]]),
        image_index=None if index is None else np.array([index]),
        image_ids=None if image_id is None else np.array([image_id]),
    )
    if any(column is not None and len(column) != len(boxes) for column in (*truth[:7], rle)):
        raise ValueError("boxes, labels, masks, area and iscrowd of an image must be as many")
    return truth


def read_predictions(preds: Sequence[ImageDict], masks: bool) -> tuple[Instances, list[list[bytes] | None]]:
    """Pad the detections of some images to a batch; ``masks`` asks for their masks, if they have any."""
    boxes, labels, scores, encoded = [], [], [], []
    for image in preds:
        shapes, rle = _shapes(image, masks)
        scores.append(torch.as_tensor(image["scores"]).flatten())
        labels.append(torch.as_tensor(image["labels"], device=scores[-1].device).flatten())
        boxes.append(torch.as_tensor(shapes, device=scores[-1].device).reshape(-1, 4))
        if not len(scores[-1]) == len(labels[-1]) == len(boxes[-1]) == len(boxes[-1] if rle is None else rle):
            raise ValueError("boxes, scores, labels and masks of an image must be as many")
        encoded.append([one["counts"] for one in rle] if rle is not None and masks else None)
    if not preds:
        return NO_DETECTIONS, []
    valid = [torch.ones_like(one, dtype=torch.bool) for one in labels]
    return Instances(*map(_pad, (boxes, valid, labels, scores))), encoded


def concatenate(images: Sequence[GroundTruth]) -> GroundTruth:
    """Join the objects of single images. Raises ValueError if only some have masks, an index or an id."""
    columns: dict[str, Any] = {}
    for name, column in zip(GroundTruth._fields, zip(*(images or [NO_OBJECTS]), strict=True), strict=True):
        if any((part is None) != (column[0] is None) for part in column):
            raise ValueError(f"some targets have {name}, and others do not")
        columns[name] = None if column[0] is None else np.concatenate(column)
    columns["images"] = np.repeat(np.arange(len(images)), [len(image.labels) for image in images])
    return GroundTruth(**columns)


def detections_of(batches: Sequence[DetectionBatch]) -> Detections:
    """Join the detections of batches, without padding. Raises ValueError, naming one, if some images lack masks."""
    preds = [batch.preds for batch in batches] or [NO_DETECTIONS]
    masks = [one for batch in batches for one in batch.masks]
    if None in masks and any(one is not None for one in masks):
        image = masks.index(None)
        target = [target for batch in batches for target in batch.targets][image]
        name = next((ids[0] for ids in (target.image_ids, target.image_index) if ids is not None), image)
        raise ValueError(f"image {name}: its predictions have no masks, but those of other images do")
    # Whole columns for the whole data set: each transfer waits for the device.
    valid = torch.cat([one.valid.flatten() for one in preds]).cpu().numpy()
    slots = [one.valid.shape[1] for one in preds for _ in one.valid]

    def column(name: str, dtype: torch.dtype) -> NDArray[Any]:
        parts = [getattr(one, name).flatten(0, 1) for one in preds]
        return np.asarray(torch.cat(parts).cpu().to(dtype).numpy()[valid])

    return Detections(
        np.repeat(np.arange(len(slots)), slots)[valid],
        column("boxes", torch.float64),
        column("labels", torch.int64),
        column("scores", torch.float64),
        None if None in masks or not masks else _objects([one for image in masks for one in image or ()]),
    )


def image_rle(detections: Instances, image: int, height: int, width: int) -> list[bytes]:
    """Encode the masks of the detections of one image of a batch as RLE, in pixels of its file."""
    assert detections.masks is not None
    valid = detections.valid[image]
    masks, boxes = (column[image][valid].float().cpu().numpy() for column in (detections.masks, detections.boxes))
    return list(box_masks_to_rle(masks, boxes, height, width))


def _shapes(image: ImageDict, masks: bool) -> tuple[Any, list[dict[str, Any]] | None]:
    """The boxes of an image, by default those around its masks, and the masks if they are asked for or needed."""
    if "masks" not in image or ("boxes" in image and not masks):
        return image["boxes"], None
    rle = _encode(image["masks"], image.get("size"))
    if "boxes" in image:
        return image["boxes"], rle
    x, y, width, height = np.array(coco_masks.toBbox(rle), dtype=np.float64).reshape(-1, 4).T
    return np.stack([x, y, x + width, y + height], axis=1), rle


def _encode(masks: Any, size: Sequence[int] | None) -> list[dict[str, Any]]:
    """COCO's compressed run-length encodings of masks (n, h, w).

    A list holds run-length encodings already: dictionaries, or their ``counts`` alone in an image of ``size`` (height,
    width).
    """
    if isinstance(masks, (Tensor, np.ndarray)):
        return list(coco_masks.encode(np.asfortranarray(_array(masks, np.uint8).transpose(1, 2, 0))))
    rle = [dict(one) if isinstance(one, Mapping) else {"size": list(size or ()), "counts": one} for one in masks]
    return [
        one | {"counts": one["counts"].encode() if isinstance(one["counts"], str) else one["counts"]} for one in rle
    ]


def _pad(parts: Sequence[Tensor]) -> Tensor:
    """Stack the objects (n, ...) of each image, padded to the largest n."""
    flat = torch.cat(list(parts))  # has a type for all
    padded = flat.new_zeros(len(parts), max(map(len, parts)), *flat.shape[1:])
    for row, part in zip(padded, parts, strict=True):
        row[: len(part)] = part
    return padded


def _objects(values: Sequence[bytes]) -> NDArray[np.object_]:
    """An array (n,) of bytes of different lengths."""
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def _array(values: Any, dtype: Any) -> NDArray[Any]:
    """A tensor, an array or a list as an array of this type."""
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=dtype)
