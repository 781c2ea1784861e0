"""Transforms of albumentations, which this module alone imports."""

from __future__ import annotations

import difflib
import itertools
import os
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from detseg.data.transforms.geometry import ImageSample, full_mask, mask_bounds
from detseg.data.transforms.transform import Transform
from detseg.errors import ConfigError
from detseg.ops.masks import box_masks


class Albumentations(Transform):
    """Apply transforms of albumentations, by their names and arguments, in order: ``{"ColorJitter": {"p": 0.5}}``.

    Boxes left without area are dropped with their labels and masks. Pixels of a semantic map that are left empty are
    ignored.

    Raises ConfigError for a transform or an argument that albumentations does not have, and in training for one that
    fails on an image or does not leave it uint8 RGB.
    """

    def __init__(self, transforms: dict[str, dict[str, Any]]) -> None:
        self.compose = _compose(transforms)

    def __call__(self, sample: ImageSample, generator: np.random.Generator) -> ImageSample:
        self.compose.set_random_seed(int(generator.integers(2**32)))
        targets: dict[str, Any] = {
            # with the index of each box, since some may be dropped
            "bboxes": np.column_stack([sample.boxes, np.arange(len(sample.boxes))])
        }
        if sample.proposals is not None:
            targets["proposals"] = sample.proposals
        if sample.masks is not None and len(sample.masks):
            height, width = sample.image.shape[:2]
            masks = [full_mask(sample, row, height, width) for row in range(len(sample.masks))]
            targets["masks"] = np.stack(masks).view(np.uint8)
        if sample.semantic is not None:
            # albumentations fills empty pixels with 0, which is a class: in the complement, 0 is IGNORE_INDEX.
            targets["mask"] = np.ascontiguousarray(~sample.semantic)
        result = self._run(np.ascontiguousarray(sample.image), targets)
        return _objects(sample, result)._replace(
            image=result["image"],
            proposals=_boxes(result["proposals"], 4) if sample.proposals is not None else None,
            semantic=~result["mask"] if sample.semantic is not None else None,
            frame=None,
        )

    def _run(self, image: NDArray[np.uint8], targets: dict[str, Any]) -> dict[str, Any]:
        names = ", ".join(type(step).__name__ for step in self.compose.transforms)
        try:
            result: dict[str, Any] = self.compose(image=image, **targets)
        except Exception as error:  # albumentations has no class that all its errors share
            height, width = image.shape[:2]
            raise ConfigError(
                f"transforms: Albumentations ({names}) fails on an image of {height} x {width} pixels: {error}; "
                "change its arguments or leave it out"
            ) from error
        image = result["image"]
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ConfigError(
                f"transforms: Albumentations ({names}) must leave images uint8 and (h, w, 3), but gives {image.dtype} "
                f"and {tuple(image.shape)}; leave normalisation out, which belongs to the backbone"
            )
        return result


def _objects(sample: ImageSample, result: dict[str, Any]) -> ImageSample:
    """Return a sample with the boxes, labels and masks of a result."""
    boxes, rows = np.split(_boxes(result["bboxes"], 5), [4], axis=1)
    rows = rows[:, 0].astype(np.int64)
    masks = [np.asarray(result["masks"][row], dtype=bool) for row in rows] if "masks" in result else []
    if "masks" in result:  # a rotated box is larger than the rotated object, and a hidden part makes it smaller
        boxes = np.array([mask_bounds(mask) for mask in masks], dtype=np.float32).reshape(-1, 4)
    kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes, grids = boxes[kept], sample.masks
    if grids is not None:
        grids = box_masks(itertools.compress(masks, kept), torch.from_numpy(boxes)).numpy()
    return sample._replace(boxes=boxes, labels=sample.labels[rows[kept]], masks=grids)


def _boxes(values: Any, columns: int) -> NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32).reshape(-1, columns)


def _compose(transforms: dict[str, dict[str, Any]]) -> Any:
    """Build an ``albumentations.Compose``. Raises ConfigError for an unknown transform or argument."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # importing it must not ask the network for news
    import albumentations

    steps = []
    for name, arguments in transforms.items():
        cls = getattr(albumentations, name, None)
        if not (isinstance(cls, type) and issubclass(cls, albumentations.BasicTransform)):
            near = difflib.get_close_matches(name, dir(albumentations), n=3)
            raise ConfigError(f"transforms: albumentations has no transform {name}; near to it: {', '.join(near)}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # its answer to an unknown argument
                steps.append(cls(**arguments))
        except (TypeError, ValueError, UserWarning) as error:
            raise ConfigError(f"transforms: {name}: {error}") from None
    boxes = albumentations.BboxParams(format="pascal_voc", clip=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that colour transforms do not change boxes
        return albumentations.Compose(steps, bbox_params=boxes, additional_targets={"proposals": "bboxes"})
