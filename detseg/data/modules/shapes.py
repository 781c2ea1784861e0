"""The embedded data set: made on the spot, so that everything can be tried without a download."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.masks import MaskUse
from detseg.data.loading.bad_samples import BadSamples
from detseg.data.loading.repeat_factors import ImageSampling
from detseg.data.modules.classification import ClassificationIndex, ImageFolders
from detseg.data.modules.coco import COCO
from detseg.data.modules.shapes_generator import write, write_crops
from detseg.data.splits import Split
from detseg.data.transforms.detection import Transforms
from detseg.errors import DataError

log = logging.getLogger(__name__)

VERSION = 1  # of the pictures: those of another one are not taken for these
MARKER = "detseg_shapes.json"  # says what a folder was drawn from; no other program writes a file of this name


class Shapes(COCO):
    """Circles, rings, squares, stars and triangles, 160 pixels large, drawn from a seed into ``root`` where missing.

    ``train`` and ``val`` are the numbers of images. ``root`` holds them in COCO format, which is what is read, and
    again in VOC format, which ``VOC`` reads. Raises DataError if ``root`` holds something else, or shapes drawn from
    other settings: nothing is ever deleted, since another run may be reading it.
    """

    def __init__(
        self,
        root: str = "datasets/shapes",
        train: int = 400,
        val: int = 100,
        seed: int = 0,
        transforms: Transforms | None = None,
        batch_size: int = 4,
        workers: int = 2,
        proposals: str | None = None,
        masks: MaskUse = "none",
        sampling: ImageSampling | None = None,
        bad_samples: BadSamples = "error",
    ) -> None:
        super().__init__(
            str(Path(root) / "coco"),
            transforms=transforms or Transforms(size=128, max_size=160),
            batch_size=batch_size,
            workers=workers,
            proposals=proposals,
            masks=masks,
            sampling=sampling,
            bad_samples=bad_samples,
        )
        self.settings = {"train": train, "val": val, "seed": seed}

    def read(self, split: Split) -> DetectionAnnotations:
        """Read the annotations of a split, drawing the data set first if need be."""
        self.prepare()
        return super().read(split)

    def prepare(self) -> None:
        """Draw the data set unless it is there, drawn from the same settings. Several processes may call this."""
        prepare(self.root.parent, self.settings, write)


class ShapeCrops(ImageFolders):
    """The shapes one by one, each cut out with what is around it: a small set to learn classification from.

    ``train`` and ``val`` are the numbers of crops, shared evenly by the five classes and scaled to ``size`` pixels.
    Everything else is as in ``Shapes`` and ``ImageFolders``.
    """

    def __init__(
        self,
        root: str = "datasets/shape_crops",
        train: int = 1500,
        val: int = 500,
        seed: int = 0,
        val_split: str = "val",
        size: int = 48,
        area: tuple[float, float] = (0.6, 1.0),
        batch_size: int = 16,
        workers: int = 2,
    ) -> None:
        super().__init__(root, val_split=val_split, size=size, area=area, batch_size=batch_size, workers=workers)
        self.settings = {"train": train, "val": val, "seed": seed, "size": size}

    def read(self, split: Split) -> ClassificationIndex:
        """List the images of a split, drawing them first if need be."""
        prepare(self.root, self.settings, write_crops)
        return super().read(split)


def prepare(root: Path, settings: dict[str, int], draw: Callable[..., None]) -> None:
    """Let ``draw(root, **settings)`` fill a folder unless it is there, drawn from the same settings."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root.with_name(f".{root.name}.lock")):
        if root.exists() and not (root.is_dir() and not any(root.iterdir())):
            _check(root, settings)
            return
        log.info("drawing %(train)d + %(val)d images of shapes", settings)
        with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as folder:
            new = Path(folder, root.name)
            new.mkdir()
            draw(new, **settings)
            (new / MARKER).write_text(json.dumps({"version": VERSION, **settings}))
            new.rename(root)  # the folder is there whole or not at all; this can replace no more than an empty one


def _check(root: Path, settings: dict[str, int]) -> None:
    """Raise DataError unless a folder was drawn from these settings."""
    try:
        found = json.loads((root / MARKER).read_text())
    except (OSError, ValueError):
        raise DataError(
            f"{root}: this holds something else than drawn shapes (no readable {MARKER} in it); "
            "give another root, or remove it"
        ) from None
    wanted = {"version": VERSION, **settings}
    if found != wanted:
        raise DataError(
            f"{root}: the shapes in this folder were drawn from other settings ({found}, not {wanted}); "
            "give another root, or remove the folder"
        )
