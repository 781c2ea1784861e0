"""Predictions fused from several views of an image: of several models, scales, mirror images, and tiles."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import compress, zip_longest
from typing import Any, NamedTuple

import numpy as np
import torch

from detseg.errors import ConfigError
from detseg.inference.batching import batch_by_shape
from detseg.inference.fusion import fuse_classifications, fuse_detections
from detseg.inference.images import ImageArray, Images, ImageSource, open_image
from detseg.inference.predictor import DEFAULT_THRESHOLD, BadImages, Predictor, PreparedImage, prepare_pixels
from detseg.inference.regions import open_regions
from detseg.inference.results import DetectionResult, Result, SemanticResult
from detseg.inference.tiling import Pixels, Tiling, predict_tiles
from detseg.models import Classifier, Detector, Segmenter
from detseg.models.model import Model
from detseg.models.tta import TTAConfig, semantic_probabilities
from detseg.modules.eval_mode import eval_mode
from detseg.ops.rle import ColumnRuns, column_runs, from_column_runs, from_string, to_string
from detseg.preprocessing import CenterCropConfig, Preprocessing, ResizeConfig


class OpenedImage(NamedTuple):
    """An image before its views are made; any images share a batch."""

    path: Any
    pixels: Pixels
    padded_shape: tuple[int, int] = (0, 0)


class View(NamedTuple):
    """One of the images that are predicted on for an image."""

    position: int  # of the image
    member: int  # position of the model
    flip: bool
    prepared: PreparedImage


class MultiViewPredictor(Predictor):
    """Predict with several ``models`` on scales, mirror images and tiles of each image, as one ``Predictor``.

    Models may be of any architectures, with the same classes and task. Detections are fused by weighted boxes fusion,
    probabilities of pixels and classes are averaged; the results of tiles are merged afterwards.

    Raises ConfigError for models that do not fit together, CheckpointError as ``Predictor`` does.
    """

    def __init__(self, models: Sequence[Model], tta: TTAConfig | None = None, tiling: Tiling | None = None) -> None:
        super().__init__(models[0])
        self.members = [self, *(Predictor(model) for model in models[1:])]
        check_members(self.members)
        self.tta, self.tiling, self.views_per_batch = tta or TTAConfig(), tiling, 1
        if self.tta.crop_size and not isinstance(self.model, Segmenter):
            raise ConfigError(f"crop_size is for segmenters; cut images for a {type(self.model).__name__} into tiles")
        if tiling and isinstance(self.model, Classifier):
            raise ConfigError("tiles are for detectors and segmenters; a classifier sees an image as a whole")

    @property
    def models(self) -> list[Model]:
        return [member.model for member in self.members]

    def stream(
        self,
        images: Images,
        batch_size: int = 8,
        threshold: float | None = None,
        bad_images: BadImages = "error",
        num_workers: int | None = None,
    ) -> Iterator[Any]:
        """Predict on images as ``Predictor.stream`` does; ``batch_size`` views of one shape share a batch.

        With tiles, images are read one by one, so that memory holds one of them; TIFF files are read tile by tile where
        tifffile can.
        """
        predictor = copy.copy(self)  # another stream may have another batch size
        predictor.views_per_batch = batch_size
        if self.tiling:
            batch_size, num_workers = min(batch_size, 1), 0
        return Predictor.stream(predictor, images, batch_size, threshold, bad_images, num_workers)

    def prepare(self, source: ImageSource) -> Any:
        if self.tiling and (regions := open_regions(source)) is not None:
            return OpenedImage(source, regions)
        image = open_image(source)
        return OpenedImage(image.path, image.pixels)

    def predict_batch(self, prepared: Sequence[Any], threshold: float | None) -> list[Result]:
        if threshold is None:  # those of a checkpoint are of the scores of one view
            threshold = DEFAULT_THRESHOLD
        if self.tiling is None:
            results = self._predict_views([item.pixels for item in prepared], threshold)
        else:
            tiling, views_per_batch = self.tiling, self.views_per_batch
            results = [
                predict_tiles(lambda tiles: self._predict_views(tiles, threshold), item.pixels, tiling, views_per_batch)
                for item in prepared
            ]
        return [
            replace(result, path=item.path, pixels=item.pixels if item.path is None else None)
            for item, result in zip(prepared, results, strict=True)
        ]

    def _predict_views(self, images: Sequence[ImageArray], threshold: float) -> list[Result]:
        """Predict on images that are not cut any further."""
        if isinstance(self.model, Segmenter):
            return [self._segment_views(image) for image in images]
        views = batch_by_shape(
            self._views(images), lambda view: (view.member, view.prepared.padded_shape), self.views_per_batch
        )
        by_image: list[list[Any]] = [[] for _ in images]
        for batch in views:
            batch_views = [view for _, view in batch]
            member = self.members[batch_views[0].member]
            results = Predictor.predict_batch(member, [view.prepared for view in batch_views], 0.0)
            for view, result in zip(batch_views, results, strict=True):
                by_image[view.position].append(unflip(result) if view.flip else result)
        if isinstance(self.model, Classifier):
            return [fuse_classifications(results) for results in by_image]
        return [above(fuse_detections(results), threshold) for results in by_image]

    def _views(self, images: Sequence[ImageArray]) -> Iterator[View]:
        for position, image in enumerate(images):
            for flip in (False, True)[: 1 + self.tta.flip]:
                pixels = np.ascontiguousarray(image[:, ::-1]) if flip else image
                for number, member in enumerate(self.members):
                    for scale in self.tta.scales:
                        config = scaled(member.model.preprocessing, scale, *image.shape[:2])
                        yield View(position, number, flip, prepare_pixels(member.model, pixels, config))

    def _segment_views(self, image: ImageArray) -> Result:
        pixels = torch.from_numpy(image).to(self.device).permute(2, 0, 1)[None]
        total: Any = 0
        for member in self.members:
            assert isinstance(member.model, Segmenter)
            with torch.inference_mode(), eval_mode(member.model):
                total = total + semantic_probabilities(member.model, pixels, self.tta)
        labels = total[0].argmax(dim=0).to(torch.uint8).cpu().numpy()
        return SemanticResult(
            image_size=image.shape[:2],
            class_names=self.class_names,
            category_ids=self.model.category_ids,
            labels=labels,
        )


def build_predictor(models: Sequence[Model], tta: TTAConfig | None = None, tiling: Tiling | None = None) -> Predictor:
    """Return a predictor with test-time augmentation, of an ensemble of ``models``, or on tiles of each image.

    Raises ConfigError or CheckpointError as the predictors do.
    """
    plain = tta in (None, TTAConfig()) or isinstance(models[0], Segmenter)
    if plain and len(models) == 1 and tiling is None:
        return Predictor(models[0], tta)
    return MultiViewPredictor(models, tta, tiling)


def check_members(members: Sequence[Predictor]) -> None:
    """Raise ConfigError if the models of an ensemble differ in their task or their classes."""
    first = members[0]
    for number, other in enumerate(members[1:], start=2):
        names = f"{type(first.model).__name__} and {type(other.model).__name__}"
        for task in (Detector, Segmenter, Classifier):
            if isinstance(first.model, task) != isinstance(other.model, task):
                raise ConfigError(f"models 1 and {number} of the ensemble, {names}, differ in their task")
        if first.class_names != other.class_names:
            differing = [
                f"{one!r} and {two!r}"
                for one, two in zip_longest(first.class_names, other.class_names, fillvalue="no class")
                if one != two
            ]
            raise ConfigError(
                f"models 1 and {number} of the ensemble, {names}, have other classes or another order of them: "
                f"{', '.join(differing[:3])}; train them on data with the same classes"
            )
        if isinstance(first.model, Detector) and first.model.needs_masks != other.model.needs_masks:
            raise ConfigError(f"models 1 and {number} of the ensemble, {names}: only one of them predicts masks")


def scaled(config: Preprocessing, scale: float, height: int, width: int) -> Preprocessing:
    """Return the preprocessing of an image of ``height`` and ``width`` for another scale."""
    if scale == 1:
        return config
    if isinstance(config, CenterCropConfig):
        return CenterCropConfig(max(1, round(scale * config.size)))
    edges = (config.min_size, config.max_size) if config else (min(height, width), max(height, width))
    return ResizeConfig(*(max(1, round(scale * edge)) for edge in edges))


def unflip(result: Result) -> Result:
    """Map the result of a flipped image back to the image."""
    if not isinstance(result, DetectionResult):
        return result
    height, width = result.image_size
    x1, y1, x2, y2 = result.boxes.T
    rles = None
    if result.mask_rles is not None:
        rles = [_flip_mask(rle, height, width) for rle in result.mask_rles]
    return replace(result, boxes=np.stack([width - x2, y1, width - x1, y2], axis=1), mask_rles=rles)


def _flip_mask(rle: bytes, height: int, width: int) -> bytes:
    column, start, stop = column_runs(from_string(rle), height)
    return to_string(from_column_runs(ColumnRuns(width - 1 - column, start, stop), height, width))


def above(result: DetectionResult, threshold: float) -> DetectionResult:
    """Return the detections of a score of at least ``threshold``."""
    kept = result.scores >= threshold
    rles = None
    if result.mask_rles is not None:
        rles = list(compress(result.mask_rles, kept))
    return replace(
        result, boxes=result.boxes[kept], scores=result.scores[kept], labels=result.labels[kept], mask_rles=rles
    )
