"""Image files of results: drawn pictures, label images, and the number of the object of each pixel."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detseg.data.annotations.images import SUFFIXES
from detseg.errors import ConfigError, DataError
from detseg.inference.archives import ImageAddress
from detseg.inference.result_files import Entry
from detseg.inference.results import DetectionResult, FailedImage, Result, SemanticResult
from detseg.ops.rle import decode, from_string
from detseg.plural import counted

log = logging.getLogger(__name__)

LABELS, OVERLAYS = "labels", "overlays"  # folders of a segmenter's images


@dataclass(frozen=True)
class PictureWriter:
    """Writes the image files of results to ``folder``, in any thread."""

    folder: Path
    names: Mapping[str, str]  # of the files, by the image; an image without a name gets none
    drawn: Collection[str]  # images of which a picture is drawn
    instances: bool = False  # also write the number of the object of each pixel

    def save(self, result: Result | FailedImage) -> Entry:
        """Write the files of a result, and return its entry, which names them.

        An image that cannot be read again, such as a slide of more pixels than are decoded, has no picture.
        """
        entry = result.to_json()
        name = self.names.get(entry["file"])
        if name is None or isinstance(result, FailedImage):
            return entry
        files: dict[str, tuple[str, Any]] = {}  # name and image by key
        if isinstance(result, SemanticResult):
            files["labels"] = f"{LABELS}/{name}", result.label_image
            if entry["file"] in self.drawn:
                files["overlay"] = f"{OVERLAYS}/{name}", result.plot
        elif entry["file"] in self.drawn:
            files["picture"] = name, result.plot
        if self.instances and isinstance(result, DetectionResult):
            files["instances"] = instances_name(name), lambda: Image.fromarray(instance_map(result))
        for key, (file, draw) in files.items():
            path = self.folder / file
            path.parent.mkdir(exist_ok=True)
            try:
                image = draw()
            except DataError as error:
                log.error("not drawn: %s", error)
                continue
            image.save(path)
            entry[key] = file
        return entry

    def describe(self, entry: Entry) -> str | None:
        """Summarise the entry of an image of which a picture was drawn, for a log."""
        if "overlay" in entry:
            shown = ", ".join(f"{name} {100 * part:.1f} %" for name, part in entry["class_fractions"].items())
            return f"{self.folder / entry['overlay']}: {shown}"
        if "picture" not in entry:
            return None
        if "boxes" in entry:
            return f"{self.folder / entry['picture']}: {counted(len(entry['boxes']), 'object')}"
        best = zip(entry["classes"], entry["scores"], strict=True)
        return f"{self.folder / entry['picture']}: {', '.join(f'{name} {score:.3f}' for name, score in best)}"


def instance_map(result: DetectionResult) -> NDArray[np.uint16]:
    """The number of the object of each pixel (h, w), from 1 in the order of the scores; the best one is on top."""
    numbers = np.zeros(result.image_size, dtype=np.uint16)
    for number, rle in reversed([*enumerate(result.mask_rles or (), start=1)]):
        numbers[decode(from_string(rle), *result.image_size)] = number
    return numbers


def instances_name(name: str) -> str:
    """Name the file for the numbers of the objects after the picture ``name``."""
    return f"{name}.instances.png"


def picture_names(images: Iterable[str], wanted: Collection[str], suffix: str | None = None) -> dict[str, str]:
    """Name the picture of each image after it, with ``suffix`` instead of its own, if it is ``wanted``.

    Where images from several folders share a name, it is numbered. Capitals do not tell names apart, since some file
    systems do not.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for image in images if wanted else ():
        path = PurePosixPath(ImageAddress(image).name if "://" in image else image)
        ending = path.suffix if path.suffix.lower() in SUFFIXES else ".png"
        stem = path.name.removesuffix(ending)
        numbered = (f"{stem}-{number}" for number in itertools.count(2))
        name = next(one for one in itertools.chain([stem], numbered) if f"{one}{suffix or ending}".lower() not in taken)
        name += suffix or ending
        taken.add(name.lower())
        if image in wanted:
            names[image] = name
    return names


def check_targets(folder: Path, names: Sequence[str], images: Iterable[str]) -> None:
    """Raise ConfigError if a file to be written in ``folder`` would take the place of an image, or is a link to one."""
    there = {_identity(folder / name): name for name in names if (folder / name).exists()}
    if not there:
        return
    for image in images:
        if "://" not in image and os.path.exists(image) and (name := there.get(_identity(image))):
            raise ConfigError(f"out {folder}: {folder / name} would take the place of an image; name another folder")


def _identity(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
