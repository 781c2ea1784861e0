"""Predictions on a Ray cluster: a class for ``map_batches`` of a Ray data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detseg.errors import ConfigError
from detseg.inference.archives import ImageContent
from detseg.inference.loading import load
from detseg.inference.result_files import Entry
from detseg.inference.writers import to_arrow


class RayPredictor:
    """Predict on the batches of a Ray data set: ``data.map_batches(RayPredictor, fn_constructor_args=["best.ckpt"])``.

    ``source`` and ``device`` are those of ``detseg.load``: by default the GPU that Ray gives the actor. A batch has the
    column ``bytes`` (content of image files, as of ``ray.data.read_binary_files``) or ``image`` (RGB arrays, as of
    ``ray.data.read_images``), and may have ``path``; the result is an Arrow table with the columns of the Parquet files
    that `detseg predict` writes. A file that cannot be read is a row with its error.
    """

    def __init__(
        self,
        source: str | Path,
        threshold: float | None = None,
        batch_size: int = 8,
        device: str | torch.device | None = None,
    ) -> None:
        self.predictor = load(source, device)
        self.threshold, self.batch_size = threshold, batch_size

    def __call__(self, batch: Mapping[str, Any]) -> Any:
        """Return the results of a batch of columns. Raises ConfigError for one without images."""
        return to_arrow(self._entries(batch))

    def _entries(self, batch: Mapping[str, Any]) -> Iterator[Entry]:
        column = next((name for name in ("bytes", "image") if name in batch), None)
        if column is None:
            raise ConfigError(f"the data set has no column bytes or image, but {', '.join(batch)}")
        paths: Sequence[Any] = batch["path"] if "path" in batch else [None] * len(batch[column])
        images: list[Any] = []
        if column == "bytes":
            images = [
                ImageContent(content, str(path or "image")) for content, path in zip(batch[column], paths, strict=True)
            ]
        else:
            images = [np.asarray(image) for image in batch[column]]
        results = self.predictor.stream(images, self.batch_size, self.threshold, bad_images="result")
        for path, result in zip(paths, results, strict=True):
            yield {**result.to_json(), "file": path}
