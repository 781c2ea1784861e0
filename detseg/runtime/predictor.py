"""Predictions on images of any kind with an exported model."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.constants import STRIDE
from detseg.errors import ConfigError, DataError
from detseg.inference.images import ImageArray, Images, InputImage, iterate_images, open_image
from detseg.inference.results import ClassificationResult, DetectionResult, Result, SemanticResult
from detseg.inference.tiling import Tiling, predict_tiles
from detseg.ops.rle import box_masks_to_rle
from detseg.preprocessing import CenterCropConfig, Preprocessing, ResizeConfig
from detseg.resizing import fit, preprocess, resize
from detseg.runtime.engines import Arrays, open_engine

log = logging.getLogger(__name__)


class FramedImage(NamedTuple):
    """An image, and its pixels in the frame of the model."""

    source: InputImage
    frame: NDArray[np.uint8]  # (3, H, W), zero outside of ``size``
    size: tuple[int, int]  # height and width inside the frame


class Predictor:
    """Predict with a file that ``detseg export`` wrote: ``results = Predictor("best.onnx")("photo.jpg")``.

    ``threads`` is the number of CPU threads, by default all; ``tiling`` cuts images into tiles. Results are those of
    ``detseg.inference.Predictor``, of images that are resized and padded alike: an image that would not fit into the
    frame is made smaller.

    Raises CheckpointError for a file that cannot be used, DetsegError without the library to run it.
    """

    def __init__(self, path: str | Path, threads: int | None = None, tiling: Tiling | None = None) -> None:
        self.engine = open_engine(path, threads)
        metadata = self.engine.metadata
        self.task: str = metadata["task"]
        self.frame: tuple[int, int] = tuple(metadata["frame"])
        self.class_names = tuple(metadata["classes"])
        self.category_ids = tuple(metadata["category_ids"])
        self.preprocessing = preprocessing_of(metadata)
        self.num_proposals: int = metadata["num_proposals"]
        self.tiling = tiling
        self.warned = False  # that images are made smaller
        if tiling and self.num_proposals:
            raise ConfigError("tiling: this model needs proposals, which are those of a whole image")

    def __call__(
        self,
        images: Images,
        batch_size: int = 8,
        threshold: float = 0.5,
        proposals: Sequence[NDArray[np.float32]] | None = None,
    ) -> list[Any]:
        """Predict on images, and return a result for each, in their order; see ``stream``."""
        return list(self.stream(images, batch_size, threshold, proposals))

    def stream(
        self,
        images: Images,
        batch_size: int = 8,
        threshold: float = 0.5,
        proposals: Sequence[NDArray[np.float32]] | None = None,
    ) -> Iterator[Any]:
        """Predict on images and yield the results as they come, in the order of the images.

        Images and ``threshold`` are those of ``detseg.inference.Predictor``. ``proposals`` (m, 4) of each image, best
        first, in its pixels, are for a model that needs them.

        Raises ConfigError for values that make no sense; DataError, naming it, for an image that cannot be read.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size {batch_size}: must be at least 1")
        if not 0 <= threshold <= 1:
            raise ConfigError(f"threshold {threshold:g}: must be between 0 and 1, as scores are")
        if self.num_proposals and proposals is None:
            raise ConfigError("proposals: this model needs the boxes to classify, an array (m, 4) for each image")
        sources = map(open_image, iterate_images(images))
        if self.tiling:
            for image in sources:
                yield self._predict_tiles(image, self.tiling, batch_size, threshold)
            return
        boxes, framed = iter(proposals or ()), map(self._frame, sources)
        while batch := list(islice(framed, batch_size)):
            given = self._pad_proposals(batch, [next(boxes) for _ in batch]) if self.num_proposals else {}
            yield from self._predict(batch, threshold, given)

    def _predict_tiles(self, image: InputImage, tiling: Tiling, batch_size: int, threshold: float) -> Result:
        def predict(tiles: Sequence[ImageArray]) -> list[Result]:
            framed = [self._frame(InputImage(tile)) for tile in tiles]
            return list(self._predict(framed, threshold))

        result = predict_tiles(predict, image.pixels, tiling, batch_size)
        return replace(result, path=image.path, pixels=None if image.path else image.pixels)

    def _frame(self, image: InputImage) -> FramedImage:
        """Put an image into the frame."""
        pixels = to_frame_size(image.pixels, self.preprocessing, self.frame)
        height, width = pixels.shape[:2]
        self._warn_of_size(image, (height, width))
        if height > self.frame[0] or width > self.frame[1]:
            raise DataError(f"{image.path or 'an image'}: {self._misfit((height, width))}, or cut the image")
        frame = np.zeros((3, *self.frame), dtype=np.uint8)
        frame[:, :height, :width] = pixels.transpose(2, 0, 1)
        return FramedImage(image, frame, (height, width))

    def _warn_of_size(self, image: InputImage, size: tuple[int, int]) -> None:
        """Log once that an image is smaller in the frame than it was in the training."""
        config = self.preprocessing
        if self.warned or not isinstance(config, ResizeConfig):
            return
        fitted = fit(np.array(image.pixels.shape[:2]), config.min_size, config.max_size).tolist()
        if tuple(fitted) != size:
            self.warned = True
            log.warning("%s: made smaller, since its %s", image.path or "an image", self._misfit(fitted))

    def _misfit(self, size: Sequence[int]) -> str:
        """Name the frame that holds an image of this height and width."""
        needed = "x".join(str(-(-side // STRIDE) * STRIDE) for side in size)
        return (
            f"{size[0]}x{size[1]} pixels do not fit into the model's {self.frame[0]}x{self.frame[1]}; export it with "
            f"--size {needed}"
        )

    def _predict(
        self, batch: Sequence[FramedImage], threshold: float, proposals: dict[str, NDArray[Any]] | None = None
    ) -> Iterator[Result]:
        """Predict on framed images, and return their results."""
        inputs: dict[str, NDArray[Any]] = {"images": np.stack([item.frame for item in batch]), **(proposals or {})}
        if self.task != "classification":
            inputs["image_sizes"] = np.array([item.size for item in batch], dtype=np.int64)
        return self._results(batch, self.engine(inputs), threshold)

    def _pad_proposals(
        self, batch: Sequence[FramedImage], proposals: Sequence[NDArray[np.float32]]
    ) -> dict[str, NDArray[Any]]:
        padded = np.zeros((len(batch), self.num_proposals, 4), dtype=np.float32)
        counts = np.zeros(len(batch), dtype=np.int64)
        for row, (item, boxes) in enumerate(zip(batch, proposals, strict=True)):
            kept = boxes[: self.num_proposals]
            height, width = item.source.pixels.shape[:2]
            scale = np.array([item.size[1] / width, item.size[0] / height] * 2, dtype=np.float32)
            padded[row, : len(kept)], counts[row] = kept * scale, len(kept)
        return {"proposals": padded, "num_proposals": counts}

    def _results(self, batch: Sequence[FramedImage], outputs: Arrays, threshold: float) -> Iterator[Result]:
        for row, item in enumerate(batch):
            height, width = item.source.pixels.shape[:2]
            shared: dict[str, Any] = {
                "image_size": (height, width),
                "class_names": self.class_names,
                "category_ids": self.category_ids,
                "path": item.source.path,
                "pixels": item.source.pixels if item.source.path is None else None,
            }
            if self.task == "segmentation":
                yield SemanticResult(**shared, labels=outputs["labels"][row, :height, :width])
            elif self.task == "classification":
                order = np.argsort(-outputs["scores"][row], kind="stable")
                yield ClassificationResult(**shared, labels=order, scores=outputs["scores"][row][order])
            else:
                yield self._detections(item, shared, {name: value[row] for name, value in outputs.items()}, threshold)

    def _detections(
        self, item: FramedImage, shared: dict[str, Any], outputs: Arrays, threshold: float
    ) -> DetectionResult:
        count = int(outputs["num_detections"])
        kept = np.flatnonzero(outputs["scores"][:count] >= threshold)
        height, width = shared["image_size"]
        scale = np.array([width / item.size[1], height / item.size[0]] * 2, dtype=np.float32)
        boxes: NDArray[np.float32] = np.multiply(outputs["boxes"][kept], scale)
        rles = None
        if "masks" in outputs:
            rles = list(box_masks_to_rle(outputs["masks"][kept], boxes, height, width))
        scores, labels = outputs["scores"][kept], outputs["labels"][kept]
        return DetectionResult(**shared, boxes=boxes, labels=labels, scores=scores, mask_rles=rles)


def preprocessing_of(metadata: dict[str, Any]) -> Preprocessing:
    """Return the resizing of images that the metadata of a model describe."""
    settings = metadata["preprocessing"]
    if settings is None:
        return None
    return CenterCropConfig(**settings) if metadata["task"] == "classification" else ResizeConfig(**settings)


def to_frame_size(image: ImageArray, config: Preprocessing, frame: tuple[int, int]) -> ImageArray:
    """Resize an image as for evaluation, or smaller where it would not fit into the frame."""
    if isinstance(config, ResizeConfig):
        size = np.array(image.shape[:2])
        height, width = fit(size, config.min_size, config.max_size).tolist()
        if height > frame[0] or width > frame[1]:
            scale = min(np.array(frame) / size)
            height, width = np.floor(size * scale).clip(1).astype(int).tolist()
        return resize(image, height, width)
    return preprocess(image, config)
