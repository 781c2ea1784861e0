"""Issues of a data set: raised at the first one, or collected from the whole data set."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from detseg.errors import DataError

log = logging.getLogger(__name__)

MAX_LISTED = 3  # messages of each kind in a summary

Severity = Literal["error", "warning", "note"]

# An error stops training or falsifies what it learns or measures; readers leave out or change the subject of a warning;
# a note is only information. In the order in which a report lists them.
KINDS: dict[str, tuple[Severity, str]] = {
    "labels-unreadable": ("error", "labels that cannot be read at all"),
    "objects-none": ("error", "splits without any object"),
    "label-broken": ("error", "labels with something missing or broken"),
    "image-missing": ("error", "images that are missing"),
    "image-unreadable": ("error", "images that cannot be read"),
    "image-truncated": ("error", "truncated images"),
    "image-bomb": ("error", "images with more pixels than are safe to decode"),
    "image-size": ("error", "images of another size than their labels say"),
    "image-ambiguous": ("error", "label files that fit several images"),
    "category-unknown": ("error", "labels of classes that are not listed"),
    "id-doubled": ("error", "ids that occur more than once"),
    "off-by-one": ("error", "class numbers that are all shifted by one"),
    "box-nan": ("error", "boxes with values that are not numbers"),
    "box-normalised": ("error", "boxes from 0 to 1 instead of in pixels"),
    "box-corners": ("error", "boxes of two corners instead of a corner or centre and a size"),
    "box-pixels": ("error", "boxes in pixels instead of fractions of the image"),
    "mask-missing": ("error", "images without a semantic mask, or masks without an image"),
    "mask-undefined": ("error", "semantic masks with undefined values"),
    "duplicate-across": ("error", "images that are the same in two splits"),
    "near-duplicate-across": ("error", "images that are nearly the same in two splits"),
    "split-conflict": ("warning", "splits that are declared and not used"),
    "file-unused": ("warning", "label files that no split uses"),
    "image-unknown": ("warning", "labels of images that are not listed"),
    "image-doubled": ("warning", "images that are listed more than once"),
    "object-doubled": ("warning", "objects that are listed more than once"),
    "id-renewed": ("warning", "annotation ids that are missing or occur twice, and are numbered anew"),
    "area-renewed": ("warning", "areas of 0 or less, which are computed anew"),
    "flag-unknown": ("warning", "flags that are neither true nor false, and are read as false"),
    "box-area": ("warning", "boxes without area"),
    "box-negative": ("warning", "boxes whose second corner lies before the first"),
    "box-outside": ("warning", "boxes outside of their image"),
    "box-beyond": ("warning", "boxes that reach beyond their image by more than a pixel"),
    "box-tiny": ("warning", "boxes with a side of less than a pixel"),
    "box-zero-based": ("warning", "files that count pixels from 0 in a format that counts from 1"),
    "mask-broken": ("warning", "masks that cannot be used"),
    "shape-unsupported": ("warning", "shapes that are left out or simplified"),
    "class-names": ("warning", "class names that differ only in capitals, spaces or the form of accents"),
    "label-missing": ("warning", "images without a label file, where others have one"),
    "label-stray": ("warning", "label files without an image"),
    "duplicate": ("warning", "images that are the same byte by byte"),
    "near-duplicate": ("warning", "images that are nearly the same"),
    "image-type": ("warning", "images of another type than their suffix says"),
    "image-rotated": ("warning", "images that viewers turn, but whose labels are for the pixels as stored"),
    "image-16bit": ("warning", "images of 16 bits per channel, of which 8 are used"),
    "image-alpha": ("warning", "images with transparency, which is not used"),
    "image-cmyk": ("warning", "images in print colours (CMYK)"),
    "class-unbalanced": ("note", "classes with less than a tenth of the objects of the largest"),
    "class-unused": ("note", "classes without any object"),
    "class-unseen": ("note", "classes with objects, but none in the training split"),
    "label-unused": ("note", "annotations that no detector uses"),
    "image-unused": ("note", "images that no split uses"),
    "image-turned": ("note", "images that viewers turn, whose labels do not tell if they are for the image as shown"),
    "image-empty": ("note", "images without objects"),
}


class Issue(NamedTuple):
    """An issue of a data set."""

    kind: str  # one of KINDS
    file: str
    message: str  # complete, the file included
    annotation: int | str | None = None  # the number of the object in its file or in the data set
    box: tuple[float, ...] | None = None  # of the object, xyxy
    image: str | None = None  # the image that the file labels, where it is known and another file

    @property
    def severity(self) -> Severity:
        """Severity of the kind."""
        return KINDS[self.kind][0]


class AnnotationError(ValueError):
    """A broken annotation, raised where the file that holds it is not known."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class IssueCollector:
    """Collect the issues that readers report, so that they go on and read the rest."""

    collects = True

    def __init__(self) -> None:
        self.issues: list[Issue] = []

    def report(
        self,
        kind: str,
        file: Path | str,
        message: str,
        annotation: int | str | None = None,
        box: tuple[float, ...] | None = None,
        image: Path | None = None,
    ) -> None:
        """Add an issue."""
        self.issues.append(Issue(kind, str(file), message, annotation, box, None if image is None else str(image)))


class FailFast(IssueCollector):
    """Raise the first error as DataError, and log warnings and notes."""

    collects = False

    def report(self, kind: str, file: Path | str, message: str, *args: Any, **more: Any) -> None:
        """Raise DataError for an error, else log the message."""
        if KINDS[kind][0] == "error":
            raise DataError(message)
        log.warning("%s", message)


class FailFastSummary(FailFast):
    """Raise the first error as DataError, and collect warnings and notes, to log their counts."""

    def report(self, kind: str, file: Path | str, message: str, *args: Any, **more: Any) -> None:
        """Raise DataError for an error, else add the issue."""
        if KINDS[kind][0] == "error":
            raise DataError(message)
        IssueCollector.report(self, kind, file, message, *args, **more)

    def log(self, root: Path) -> None:
        """Log the number of issues of each kind with the first messages, in the words of a check."""
        for kind, messages in summarize(self.issues):
            more = f"; and {len(messages) - MAX_LISTED} more" if len(messages) > MAX_LISTED else ""
            level = logging.INFO if KINDS[kind][0] == "note" else logging.WARNING
            log.log(level, f"%s: {title(kind, len(messages))}: %s%s", root, "; ".join(messages[:MAX_LISTED]), more)


def log_issues(root: Path, issues: Iterable[Issue]) -> None:
    """Log the number of issues of each kind with the first messages. Raises DataError for an error."""
    summary = FailFastSummary()
    for issue in issues:
        summary.report(*issue)
    summary.log(root)


def summarize(issues: Iterable[Issue]) -> Iterator[tuple[str, list[str]]]:
    """Yield each kind of some issues with its messages, in the order of KINDS."""
    of_kind: dict[str, list[str]] = {}
    for issue in issues:
        of_kind.setdefault(issue.kind, []).append(issue.message)
    yield from ((kind, of_kind[kind]) for kind in KINDS if kind in of_kind)


def title(kind: str, count: int) -> str:
    """Describe a number of issues of a kind."""
    return f"{count} {KINDS[kind][1]} ({kind})"


FAIL_FAST = FailFast()


def shifted(used: Iterable[int], known: Iterable[int]) -> str | None:
    """Describe class numbers that are all one too high or one too low; None if the ``used`` ones fit the ``known``."""
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
