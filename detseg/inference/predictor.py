"""Predictions on images of any kind with a detector, a segmenter or a classifier."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import joblib
import numpy as np
import torch
from torch import Tensor

from detseg.constants import MAX_PROPOSALS
from detseg.data.annotations.images import ImageFile
from detseg.data.loading.collate import eval_pad_shapes
from detseg.errors import CheckpointError, ConfigError, DataError
from detseg.inference.batching import batch_by_shape, in_order, map_ahead
from detseg.inference.images import FailedSource, ImageArray, Images, ImageSource, is_file, iterate_images, open_image
from detseg.inference.preprocessing import padded_shape, preprocess, to_batch
from detseg.inference.results import ClassificationResult, DetectionResult, FailedImage, Result, SemanticResult
from detseg.models import Classifier, Detector, Segmenter
from detseg.models.model import Model
from detseg.models.tta import TTAConfig as TTAConfig
from detseg.models.tta import predict_semantic
from detseg.modules.eval_mode import eval_mode
from detseg.ops.rle import box_masks_to_rle
from detseg.preprocessing import Preprocessing
from detseg.proposals.selective_search import selective_search
from detseg.structures import Batch, Sample, rescale

log = logging.getLogger(__name__)

BadImages = Literal["error", "skip", "result"]
DEFAULT_THRESHOLD = 0.5  # score
MAX_THREADS = 16  # that read images: more would only compete for the interpreter


class PreparedImage(NamedTuple):
    """An image before and after the preprocessing."""

    path: ImageFile | None
    pixels: ImageArray | None  # None if they can be read again from ``path``
    sample: Sample
    padded_shape: tuple[int, int]


class Predictor:
    """Predict with a ``model`` on the device that it is on: ``results = predictor("photo.jpg")``.

    ``tta`` is the test-time augmentation of a segmenter. Models that do not make their own proposals get those of
    selective search.

    Raises ConfigError for a model or a ``tta`` that it cannot predict with, CheckpointError for an R-CNN whose training
    is not complete.
    """

    def __init__(self, model: Model, tta: TTAConfig | None = None) -> None:
        if not isinstance(model, (Detector, Segmenter, Classifier)):
            raise ConfigError(f"cannot predict with a {type(model).__name__}; give a detector, segmenter or classifier")
        if tta not in (None, TTAConfig()) and not isinstance(model, Segmenter):
            raise ConfigError(
                f"tta: give it to `detseg.load` or `MultiViewPredictor`; {type(model).__name__} is no segmenter"
            )
        if isinstance(model, Detector) and not model.complete:
            raise CheckpointError(
                "this R-CNN is only fine-tuned: the stages after the last epoch are missing; resume the training"
            )
        self.model = model
        self.tta = tta or TTAConfig()
        self.class_names = model.class_names or tuple(f"class {label}" for label in range(model.num_classes))
        if isinstance(model, Detector) and model.needs_proposals:
            log.info("proposals are made by selective search in fast mode, whatever the model was trained with")

    @property
    def models(self) -> list[Model]:
        """All models whose predictions are fused."""
        return [self.model]

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        tensors = itertools.chain(self.model.parameters(), self.model.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    def __call__(self, images: Images, batch_size: int = 8, threshold: float | None = None) -> list[Any]:
        """Predict on images, and return a result for each, in their order; see ``stream``.

        Results are a ``DetectionResult``, ``SemanticResult`` or ``ClassificationResult``, as the model is.
        """
        return list(self.stream(images, batch_size, threshold))

    def stream(
        self,
        images: Images,
        batch_size: int = 8,
        threshold: float | None = None,
        bad_images: BadImages = "error",
        num_workers: int | None = None,
    ) -> Iterator[Any]:
        """Predict on images and yield the results as they come, in the order of the images.

        ``images`` is a source of ``list_images``, as a file, a folder or an archive, an RGB array (h, w, 3) uint8, a
        PIL image, a tensor (3, h, w), or a list or an iterator of these. Images that are padded to the same shape share
        a batch of at most ``batch_size``, so that no result depends on the other images. Objects of a score below
        ``threshold`` are dropped, by default of that of their class in ``model.thresholds``, or else .5; segmenters and
        classifiers have no use for it. With ``bad_images`` "skip" an image that cannot be read, or a source that cannot
        be listed, is logged as an error and left out; with "result" a ``FailedImage`` takes its place.
        ``num_workers`` threads read and resize files ahead, by default as many as there are cores; memory is bounded.

        Raises ConfigError for values that make no sense; DataError, naming it, for an image that cannot be read.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size {batch_size}: must be at least 1")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ConfigError(f"threshold {threshold:g}: must be between 0 and 1, as scores are")
        items = map_ahead(self._try_prepare, iterate_images(images), thread_count(num_workers), is_file)
        results = in_order(
            (position, result)
            for batch in batch_by_shape(items, lambda item: item.padded_shape, batch_size)
            for (position, _), result in zip(batch, self._results([item for _, item in batch], threshold), strict=True)
        )
        return self._handle_failures(results, bad_images)

    def prepare(self, source: ImageSource) -> PreparedImage:
        """Read and preprocess one image, in any thread. Raises DataError, naming it, if it cannot be read."""
        image = open_image(source)
        prepared = prepare_pixels(self.model, image.pixels, self.model.preprocessing)
        return prepared._replace(path=image.path, pixels=image.pixels if image.path is None else None)

    def _try_prepare(self, source: ImageSource | FailedSource) -> PreparedImage | FailedImage:
        if isinstance(source, FailedSource):
            return FailedImage(source.name, source.error)
        try:
            return self.prepare(source)
        except DataError as error:
            return FailedImage(str(source) if is_file(source) else None, error)

    def _handle_failures(
        self, results: Iterable[Result | FailedImage], bad_images: BadImages
    ) -> Iterator[Result | FailedImage]:
        for result in results:
            if isinstance(result, FailedImage):
                if bad_images == "error":
                    raise result.error
                log.error("%s", result.error)
                if bad_images == "skip":
                    continue
            yield result

    def _results(self, batch: Sequence[Any], threshold: float | None) -> Sequence[Result | FailedImage]:
        """Predict on a batch of prepared images; failed ones, which have a batch to themselves, stay as they are."""
        if isinstance(batch[0], FailedImage):
            return batch
        try:
            return self.predict_batch(batch, threshold)
        except DataError as error:  # of an image that is read tile by tile, which is a batch of its own
            return [FailedImage(str(item.path), error) for item in batch]

    def predict_batch(self, prepared: Sequence[PreparedImage], threshold: float | None) -> Sequence[Result]:
        """Predict on prepared images of one padded shape, and return their results."""
        batch = to_batch([item.sample for item in prepared], [prepared[0].padded_shape], self.device)
        with torch.inference_mode(), eval_mode(self.model):
            if isinstance(self.model, Detector):
                return self._detect(batch, prepared, threshold)
            if isinstance(self.model, Segmenter):
                return self._segment(batch, prepared)
            return self._classify(batch, prepared)

    def _detect(
        self, batch: Batch, prepared: Sequence[PreparedImage], threshold: float | None
    ) -> list[DetectionResult]:
        assert isinstance(self.model, Detector)
        detections = self.model(batch.images, batch.image_sizes, batch.proposals)
        detections = rescale(detections, batch.image_sizes, batch.original_sizes)
        assert detections.scores is not None
        assert detections.labels is not None
        lowest: Tensor | float = DEFAULT_THRESHOLD if threshold is None else threshold
        if threshold is None and self.model.thresholds:
            lowest = detections.scores.new_tensor(self.model.thresholds)[detections.labels]
        keep = (detections.valid & (detections.scores >= lowest)).cpu()
        boxes, scores = detections.boxes.float().cpu().numpy(), detections.scores.float().cpu().numpy()
        labels = detections.labels.cpu().numpy()
        results = []
        for row, item in enumerate(prepared):
            kept = keep[row].numpy()
            rles = None
            if detections.masks is not None:
                masks = detections.masks[row][keep[row].to(detections.masks.device)].float().cpu().numpy()
                rles = list(box_masks_to_rle(masks, boxes[row, kept], *item.sample.original_size))
            results.append(
                DetectionResult(
                    **self._shared(item),
                    boxes=boxes[row, kept],
                    labels=labels[row, kept],
                    scores=scores[row, kept],
                    mask_rles=rles,
                )
            )
        return results

    def _segment(self, batch: Batch, prepared: Sequence[PreparedImage]) -> list[SemanticResult]:
        assert isinstance(self.model, Segmenter)
        labels = predict_semantic(self.model, batch.images, batch.image_sizes, self.tta).cpu().numpy()
        sizes = [item.sample.original_size for item in prepared]
        return [
            SemanticResult(**self._shared(item), labels=labels[row, :height, :width].astype(np.uint8))
            for row, (item, (height, width)) in enumerate(zip(prepared, sizes, strict=True))
        ]

    def _classify(self, batch: Batch, prepared: Sequence[PreparedImage]) -> list[ClassificationResult]:
        scores, labels = self.model(batch.images).float().softmax(dim=1).sort(dim=1, descending=True, stable=True)
        rows = zip(prepared, labels.cpu().numpy(), scores.cpu().numpy(), strict=True)
        return [ClassificationResult(**self._shared(item), labels=label, scores=score) for item, label, score in rows]

    def _shared(self, item: PreparedImage) -> dict[str, Any]:
        """The fields of any result."""
        return {
            "image_size": item.sample.original_size,
            "class_names": self.class_names,
            "category_ids": self.model.category_ids,
            "path": item.path,
            "pixels": item.pixels,
        }


def prepare_pixels(model: Model, image: ImageArray, config: Preprocessing) -> PreparedImage:
    """Preprocess an image (h, w, 3) for a model, with the proposals that it needs."""
    proposals = None
    if isinstance(model, Detector) and model.needs_proposals:
        proposals = selective_search(image)[:MAX_PROPOSALS]
    sample = preprocess(image, config, proposals)
    return PreparedImage(None, image, sample, padded_shape(sample.image, eval_pad_shapes(config)))


def thread_count(num_workers: int | None) -> int:
    """Return the number of threads that read images, by default that of the cores. Raises ConfigError below 0."""
    if num_workers is not None and num_workers < 0:
        raise ConfigError(f"num_workers {num_workers}: must be at least 0")
    return min(joblib.cpu_count(), MAX_THREADS) if num_workers is None else num_workers
