"""Faults of a data set: raised at the first one, or collected from all of it by whoever asks for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Literal, NamedTuple

from detseg.errors import DataError

Severity = Literal["error", "warning", "note"]

# An error stops a training, or makes what it learns or measures wrong; what a warning is about is left out or changed
# by the readers; a note is no fault, but good to know. In the order in which a report lists them.
KINDS: dict[str, tuple[Severity, str]] = {
    "labels-unreadable": ("error", "labels that cannot be read at all"),
    "objects-none": ("error", "parts of the set without any object"),
    "label-broken": ("error", "labels with something missing or broken"),
    "image-missing": ("error", "images that are missing"),
    "image-unreadable": ("error", "images that cannot be read"),
    "image-truncated": ("error", "images that end too early"),
    "image-bomb": ("error", "images with more pixels than are safe to decode"),
    "image-size": ("error", "images of another size than their labels say"),
    "image-unknown": ("error", "labels of images that are not listed"),
    "category-unknown": ("error", "labels of classes that are not listed"),
    "id-doubled": ("error", "ids that stand more than once"),
    "off-by-one": ("error", "numbers of classes that are all shifted by one"),
    "box-nan": ("error", "boxes with something else than numbers"),
    "box-normalised": ("error", "boxes from 0 to 1, where pixels are meant"),
    "mask-missing": ("error", "images without a file of the class of each pixel, or such files without an image"),
    "mask-undefined": ("error", "files of labels with a number of no class"),
    "duplicate-across": ("error", "images that are the same in two parts of the set"),
    "box-area": ("warning", "boxes without area"),
    "box-negative": ("warning", "boxes whose second corner lies before the first"),
    "box-outside": ("warning", "boxes outside of their image"),
    "box-beyond": ("warning", "boxes that reach beyond their image by more than a pixel"),
    "box-tiny": ("warning", "boxes with a side of less than a pixel"),
    "mask-broken": ("warning", "masks that cannot be used"),
    "class-names": ("warning", "names of classes that differ in capitals or spaces alone"),
    "label-missing": ("warning", "images without a file of labels, where others have one"),
    "label-stray": ("warning", "files of labels without an image"),
    "duplicate": ("warning", "images that are the same byte by byte"),
    "image-type": ("warning", "images of another type than their ending says"),
    "image-rotated": ("warning", "images that viewers turn, but whose labels are for the pixels as stored"),
    "image-16bit": ("warning", "images of 16 bits a colour, of which 8 are used"),
    "image-alpha": ("warning", "images with transparency, which is not used"),
    "image-cmyk": ("warning", "images in the colours of print"),
    "class-unbalanced": ("note", "classes with less than a tenth of the objects of the largest"),
    "class-unused": ("note", "classes without any object"),
    "class-unseen": ("note", "classes with objects, but none in the training part"),
    "image-empty": ("note", "images without objects"),
}


class Issue(NamedTuple):
    """Something wrong with a data set."""

    kind: str  # one of KINDS
    file: str
    text: str  # all that there is to say, the file included
    annotation: int | str | None = None  # the number of the object in its file or in the set
    box: tuple[float, ...] | None = None  # of the object, xyxy
    image: str | None = None  # whose labels are in the file, where that is known and another

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return KINDS[self.kind][0]


class AnnotationError(ValueError):
    """What is wrong with an object, said where nobody knows yet in which file it stands."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


# Readers are called through many hands, and only some of their callers care: so the list is not handed down.
_collected: ContextVar[list[Issue] | None] = ContextVar("collected", default=None)


@contextmanager
def collecting() -> Iterator[list[Issue]]:
    """Inside, readers go on after a fault, with all that can be read; what they find is in the list."""
    found: list[Issue] = []
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)


def collects() -> bool:
    """Whether someone collects faults."""
    return _collected.get() is not None


def report(
    kind: str,
    file: Path | str,
    text: str,
    annotation: int | str | None = None,
    box: tuple[float, ...] | None = None,
    image: Path | None = None,
) -> None:
    """Add a fault to what is collected; where nobody collects, raise it as DataError."""
    found = _collected.get()
    if found is None:
        raise DataError(text)
    found.append(Issue(kind, str(file), text, annotation, box, None if image is None else str(image)))


def shifted(used: Iterable[int], known: Iterable[int]) -> str | None:
    """Whether numbers of classes in use are those that are ``known``, but all one too high or too low; None if not."""
    seen, classes = set(used), set(known)
    strange = seen - classes
    if not classes:
        return None
    low, high = min(classes), max(classes)
    if strange == {high + 1} and low not in seen:
        return f"{high + 1} is used, which is no class, and {low} never: all numbers look one too high"
    if strange == {low - 1} and high not in seen:
        return f"{low - 1} is used, which is no class, and {high} never: all numbers look one too low"
    return None
