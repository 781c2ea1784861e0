"""Images in a folder for each class, as ImageNet comes: what classifiers learn from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from detseg.data.annotations.images import SUFFIXES, read_image
from detseg.data.loading.samplers import Key
from detseg.data.modules.base import BaseDataModule
from detseg.data.splits import Split, split_indices
from detseg.data.transforms.detection import ImageSample, augment, compose
from detseg.errors import ConfigError, DataError
from detseg.preprocessing import CenterCropConfig
from detseg.structures import Sample

log = logging.getLogger(__name__)

ASPECT = 4 / 3  # of a training crop, at most, either way (GoogLeNet, section 6)
CENTRE = 0.875  # share of the short edge that the evaluation's crop shows: 224 of 256 pixels
NO_BOXES = np.zeros((0, 4), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class ClassificationIndex:
    """The images of a split, of one class each."""

    root: Path
    classes: tuple[str, ...]
    files: NDArray[np.str_]  # (I,) below the root
    labels: NDArray[np.int64]  # (I,)

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The classes by number: folders have no ids of their own."""
        return tuple(range(len(self.classes)))

    def __len__(self) -> int:
        """Count the images."""
        return len(self.files)

    def path(self, image: int) -> Path:
        """Where the file of one image lies."""
        return self.root / str(self.files[image])

    def subset(self, rows: NDArray[Any]) -> ClassificationIndex:
        """Keep the images of these rows."""
        return replace(self, files=self.files[rows], labels=self.labels[rows])

    def relabel(self, classes: Sequence[str]) -> ClassificationIndex:
        """Renumber the labels to ``classes``, matching by name. Images of other classes are left out and logged."""
        position = {name: label for label, name in enumerate(classes)}
        labels = np.array([position.get(name, -1) for name in self.classes], dtype=np.int64)[self.labels]
        known = labels >= 0
        if not known.all():
            others = ", ".join(name for name in self.classes if name not in position)
            log.warning("%s: left out %d images of other classes: %s", self.root, (~known).sum(), others)
        return replace(self, classes=tuple(classes), labels=labels).subset(known)

    def describe(self) -> str:
        """Say in one line what there is."""
        return f"{len(self)} images, {len(self.classes)} classes"


class ClassificationDataset(Dataset[Sample]):
    """Square images, each with one object: its class, over all of it."""

    def __init__(self, data: ImageFolders, listing: ClassificationIndex, training: bool) -> None:
        self.data, self.listing, self.training = data, listing, training

    def __len__(self) -> int:
        """Count the images."""
        return len(self.listing)

    def __getitem__(self, key: int | Key) -> Sample:
        """Read the image of a row; a training sampler adds the seed of its random changes, else the row serves."""
        row, seed = key if isinstance(key, tuple) else (key, key)
        image = read_image(self.listing.path(row))
        height, width = image.shape[:2]
        image = self.data.train_transform(image, seed) if self.training else center_crop(image, self.data.size)
        return Sample(
            image=torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1),
            boxes=torch.tensor([[0.0, 0.0, self.data.size, self.data.size]]),
            labels=torch.from_numpy(self.listing.labels[row : row + 1]),
            image_index=row,
            original_size=(height, width),
        )


class ImageFolders(BaseDataModule[ClassificationIndex]):
    """Images below ``root``/``train_split``/CLASS and ``root``/``val_split``/CLASS.

    Where there is no folder ``train_split``, the classes are the folders of ``root`` itself, and of each class the
    share ``val_fraction`` is held out for validation. The class names are those of the folders.

    Training cuts out a part of the area and aspect ratio that ``area`` (smallest and largest share) and a factor of 4/3
    allow, and scales it to ``size`` x ``size`` (GoogLeNet, section 6), mirrors it with probability ``flip`` and applies
    ``augment`` as in ``Transforms``. Evaluation takes the middle, 7/8 of the short edge, as is usual since AlexNet.

    Raises ConfigError for values that make no sense, DataError for a folder without classes or images.
    """

    min_batch_size = 2  # batch norm of a map of one cell needs more than one value

    def __init__(
        self,
        root: str,
        train_split: str = "train",
        val_split: str = "val",
        val_fraction: float = 0.2,
        size: int = 224,
        area: tuple[float, float] = (0.08, 1.0),
        flip: float = 0.5,
        augment: dict[str, dict[str, Any]] | None = None,
        batch_size: int = 32,
        workers: int = 2,
    ) -> None:
        super().__init__(batch_size, workers)
        if size < 1:
            raise ConfigError(f"data: size {size} must be at least 1")
        if not 0 < area[0] <= area[1] <= 1 or not 0 <= flip <= 1:
            raise ConfigError(f"data: area {list(area)} must be above 0 and rise to at most 1, flip {flip} within 0..1")
        self.root, self.splits = Path(root), {"train": train_split, "val": val_split}
        self.val_fraction, self.size, self.area, self.flip = val_fraction, size, area, flip
        self.augment = compose(augment) if augment else None

    def read(self, split: Split) -> ClassificationIndex:
        """List the images of a split, or its part of a folder that is not split."""
        if not self.root.is_dir():
            raise DataError(f"{self.root}: there is no such folder; data.root names the one with the images")
        if (self.root / self.splits["train"]).is_dir():
            folder = self.root / self.splits[split]
            if not folder.is_dir():
                names = ", ".join(sorted(path.name for path in self.root.iterdir() if path.is_dir()))
                raise DataError(
                    f"{folder}: there is no such folder; data.{split}_split names one of {names}; if "
                    f"{self.splits['train']} is a class, let data.train_split name no folder"
                )
            return list_images(folder)
        listing = list_images(self.root)
        rows = [np.flatnonzero(listing.labels == label) for label in range(len(listing.classes))]
        single = [name for name, own in zip(listing.classes, rows, strict=True) if len(own) < 2]
        if single:
            raise DataError(f"{self.root / single[0]}: one image cannot be shared between training and validation")
        kept = np.concatenate([own[split_indices(len(own), self.val_fraction, split)] for own in rows])
        return listing.subset(kept)

    def train_transform(self, image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        """Cut, scale, mirror and augment an RGB image (h, w, 3) as ``seed`` draws it, to (size, size, 3)."""
        generator = np.random.default_rng(seed)
        image = _scale(_random_part(image, self.area, generator), self.size)
        if generator.random() < self.flip:
            image = image[:, ::-1]
        if self.augment is not None:
            picture = ImageSample(np.ascontiguousarray(image), NO_BOXES, np.zeros(0, np.int64))
            image = augment(picture, self.augment, int(generator.integers(2**32))).image
        return image

    @property
    def preprocessing(self) -> CenterCropConfig:
        """The crop of images for evaluation."""
        return CenterCropConfig(self.size)

    @property
    def pad_shapes(self) -> list[tuple[int, int]]:
        """Height and width of every batch."""
        return [(self.size, self.size)]

    def bucket_ids(self, split: Split) -> NDArray[np.int64]:
        """All images together: they are made the same size."""
        return np.zeros(len(self.annotations(split)), dtype=np.int64)

    def dataset(self, split: Split) -> ClassificationDataset:
        """The images of a split."""
        return ClassificationDataset(self, self.annotations(split), training=split == "train")


def list_images(folder: Path) -> ClassificationIndex:
    """Every image below the folders of ``folder``, in the order of their names. Raises DataError for one without."""
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise DataError(f"{folder}: no folder of a class is in here; images are expected in {folder}/CLASS/NAME.jpg")
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        own = sorted(
            f"{name}/{path.relative_to(folder / name).as_posix()}"
            for path in (folder / name).rglob("*")
            if path.suffix.lower() in SUFFIXES
        )
        if not own:
            raise DataError(f"{folder / name}: no image of this class ({', '.join(SUFFIXES)})")
        files += own
        labels += [label] * len(own)
    return ClassificationIndex(folder, tuple(classes), np.array(files, dtype=np.str_), np.array(labels, dtype=np.int64))


def center_crop(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Crop the central square of an RGB image (h, w, 3), 7/8 of its short edge, and resize it to ``size`` pixels."""
    height, width = image.shape[:2]
    edge = max(round(CENTRE * min(height, width)), 1)
    top, left = (height - edge) // 2, (width - edge) // 2
    return _scale(image[top : top + edge, left : left + edge], size)


def _random_part(image: NDArray[np.uint8], area: tuple[float, float], generator: Any) -> NDArray[np.uint8]:
    """A part of random area and aspect ratio; the largest that is square where none of ten fits."""
    height, width = image.shape[:2]
    for _ in range(10):
        pixels = height * width * generator.uniform(*area)
        ratio = np.exp(generator.uniform(-np.log(ASPECT), np.log(ASPECT)))
        h, w = (max(round(float(edge)), 1) for edge in (np.sqrt(pixels / ratio), np.sqrt(pixels * ratio)))
        if h <= height and w <= width:
            break
    else:
        h = w = min(height, width)
    top, left = generator.integers(0, (height - h, width - w), endpoint=True).tolist()
    return image[top : top + h, left : left + w]


def _scale(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Scale to a square; means of pixels where it shrinks, which leave no patterns that were not there."""
    method = cv2.INTER_AREA if min(image.shape[:2]) > size else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=method).astype(np.uint8, copy=False)
