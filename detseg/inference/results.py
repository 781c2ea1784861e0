"""Results of predictions: one type for each task, on the CPU, in pixels of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detseg.data.annotations.images import ImageFile, read_image
from detseg.draw import draw, label_image, overlay
from detseg.errors import DataError, DetsegError
from detseg.inference.images import ImageArray
from detseg.ops.rle import MaskWindow, decode, encode, from_string, to_string

TOP_K = 5  # classes that a drawn classification shows


class FailedImage(NamedTuple):
    """An image that could not be read, instead of its result."""

    file: str | None  # name, if it is a file
    error: DataError
    padded_shape: None = None  # so that it shares a batch with others of its kind

    def to_json(self) -> dict[str, Any]:
        """Return the name and the error in plain values."""
        return {"file": self.file, "error": str(self.error)}


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """Fields that the results of all tasks share."""

    image_size: tuple[int, int]  # height and width of the image
    class_names: tuple[str, ...]  # of the model, in the order of the labels
    category_ids: tuple[int, ...] = ()  # the data set's own numbers of the classes
    path: ImageFile | None = None  # of the image file, if there is one
    pixels: ImageArray | None = None  # of an image that does not come from a file

    @property
    def image(self) -> ImageArray:
        """The image (h, w, 3), RGB; a file is read again. Raises DataError if it cannot be."""
        if self.pixels is not None:
            return self.pixels
        assert self.path is not None
        return read_image(self.path)

    def plot(self) -> Image.Image:
        """Draw the result on the image."""
        raise NotImplementedError

    def to_coco(self, image_id: int = 0, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """List entries of a COCO result file, which pycocotools' ``loadRes`` reads.

        ``category_ids`` (K,) are the numbers of the classes there: by default those of the data that the model was
        trained on, or else 1 to K.
        """
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Return the result in plain values, as `detseg predict` writes it."""
        return {"file": None if self.path is None else str(self.path), "size": list(self.image_size)}

    def to_supervision(self) -> Any:
        """Convert to the types of the package supervision. Raises DetsegError if that is not installed."""
        raise NotImplementedError

    def _category_ids(self, category_ids: Sequence[int] | None) -> Sequence[int]:
        return category_ids or self.category_ids or range(1, len(self.class_names) + 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class DetectionResult(Result):
    """The objects in one image, best first."""

    boxes: NDArray[np.float32]  # (n, 4) xyxy
    labels: NDArray[np.int64]  # (n,) 0..K-1
    scores: NDArray[np.float32]  # (n,)
    mask_rles: list[bytes] | None = None  # (n,) COCO's compressed RLE, see ops.rle
    track_ids: NDArray[np.int64] | None = None  # (n,) the same in all frames of a video; -1 for an object without track

    def __len__(self) -> int:
        """Count the objects."""
        return len(self.labels)

    @property
    def names(self) -> list[str]:
        """The class name (n,) of each object."""
        return [self.class_names[label] for label in self.labels]

    @cached_property
    def masks(self) -> NDArray[np.bool_] | None:
        """Masks (n, h, w), or None if the model predicts none."""
        if self.mask_rles is None:
            return None
        masks = [decode(from_string(rle), *self.image_size) for rle in self.mask_rles]
        return np.stack(masks) if masks else np.zeros((0, *self.image_size), dtype=bool)

    def plot(self) -> Image.Image:
        """Draw boxes, class names, scores in per cent and masks on the image; a track has a colour of its own."""
        masks = (decode(from_string(rle), *self.image_size) for rle in self.mask_rles or ())
        labels, names = self.labels, dict(enumerate(self.class_names))
        if self.track_ids is not None:
            labels = np.where(self.track_ids < 0, labels, self.track_ids + len(names))
            tracks = zip(labels.tolist(), self.names, self.track_ids.tolist(), strict=True)
            names |= {label: f"{name} #{track}" for label, name, track in tracks if track >= 0}
        return Image.fromarray(draw(self.image, self.boxes, labels, names, self.scores, masks))

    def to_coco(self, image_id: int = 0, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        ids = self._category_ids(category_ids)
        entries: list[dict[str, Any]] = []
        for (x1, y1, x2, y2), label, score in zip(
            self.boxes.tolist(), self.labels.tolist(), self.scores.tolist(), strict=True
        ):
            box = [x1, y1, x2 - x1, y2 - y1]
            entries.append({"image_id": image_id, "category_id": ids[label], "bbox": box, "score": score})
        for entry, rle in zip(entries, self.mask_rles or (), strict=False):
            entry["segmentation"] = {"size": list(self.image_size), "counts": rle.decode()}
        return entries

    def to_torchmetrics(self) -> dict[str, Any]:
        """Return the columns as detection metrics take them; masks are COCO's compressed RLE."""
        masks = {} if self.mask_rles is None else {"masks": self.mask_rles}
        return {"boxes": self.boxes, "scores": self.scores, "labels": self.labels, "size": self.image_size, **masks}

    def to_json(self) -> dict[str, Any]:
        masks = {} if self.mask_rles is None else {"masks": [entry["segmentation"] for entry in self.to_coco()]}
        tracks = {}
        if self.track_ids is not None:
            tracks["track_ids"] = [track if track >= 0 else None for track in self.track_ids.tolist()]
        return {
            **super().to_json(),
            "classes": self.names,
            "scores": [round(float(score), 4) for score in self.scores],
            "boxes": self.boxes.astype(np.float64).round(2).tolist(),  # short numbers, unlike in 32 bits
            **masks,
            **tracks,
        }

    def to_supervision(self) -> Any:
        return _supervision().Detections(
            xyxy=self.boxes,
            mask=self.masks,
            confidence=self.scores,
            class_id=self.labels,
            data={"class_name": np.array(self.names, dtype=str)},
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class SemanticResult(Result):
    """The class of each pixel of one image."""

    labels: NDArray[np.uint8]  # (h, w) 0..K-1

    @cached_property
    def class_fractions(self) -> dict[str, float]:
        """The fraction of the pixels of each class in the image, the largest first."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.class_names))
        order = [label for label in np.argsort(-counts, kind="stable").tolist() if counts[label]]
        return {self.class_names[label]: counts[label] / self.labels.size for label in order}

    def plot(self) -> Image.Image:
        """Tint the image by class, with a legend below it."""
        return Image.fromarray(overlay(self.image, self.labels, self.class_names))

    def label_image(self) -> Image.Image:
        """Make a palette image whose pixels are the labels, shown in VOC's colours."""
        return label_image(self.labels)

    def to_coco(self, image_id: int = 0, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        ids = self._category_ids(category_ids)
        entries = []
        for label in np.unique(self.labels).tolist():
            counts = encode(MaskWindow(0, 0, (self.labels == label).T), *self.image_size)
            rle = {"size": list(self.image_size), "counts": to_string(counts).decode()}
            entries.append({"image_id": image_id, "category_id": ids[label], "segmentation": rle, "score": 1.0})
        return entries

    def to_json(self) -> dict[str, Any]:
        fractions = {name: round(part, 6) for name, part in self.class_fractions.items()}
        return {**super().to_json(), "class_fractions": fractions}

    def to_supervision(self) -> Any:
        supervision = _supervision()
        labels = np.unique(self.labels).astype(np.int64)
        masks = self.labels == labels[:, None, None]
        names = np.array([self.class_names[label] for label in labels], dtype=str)
        boxes = supervision.mask_to_xyxy(masks)
        return supervision.Detections(xyxy=boxes, mask=masks, class_id=labels, data={"class_name": names})


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassificationResult(Result):
    """The classes of one image, best first."""

    labels: NDArray[np.int64]  # (K,)
    scores: NDArray[np.float32]  # (K,) probabilities that add up to 1

    def top_k(self, k: int = TOP_K) -> dict[str, float]:
        """The ``k`` likeliest classes with their probabilities."""
        labels, scores = self.labels[:k].tolist(), self.scores[:k].tolist()
        return {self.class_names[label]: score for label, score in zip(labels, scores, strict=True)}

    def plot(self) -> Image.Image:
        """Draw the likeliest class and its probability in per cent on the image."""
        height, width = self.image_size
        box = [[0, 0, width, height]]
        return Image.fromarray(draw(self.image, box, self.labels[:1], self.class_names, self.scores[:1]))

    def to_json(self) -> dict[str, Any]:
        best = {name: round(score, 4) for name, score in self.top_k().items()}
        return {**super().to_json(), "classes": [*best], "scores": [*best.values()]}

    def to_supervision(self) -> Any:
        return _supervision().Classifications(class_id=self.labels, confidence=self.scores)


def _supervision() -> Any:
    try:
        import supervision
    except ImportError as error:
        raise DetsegError("to_supervision needs the package supervision: pip install supervision") from error
    return supervision
