"""The check of a whole data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from detseg.check.labels import Part, class_counts, class_issues, duplicates, mask_issues, object_issues
from detseg.check.pictures import ImageJob, ImageStats, look_at
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.issues import KINDS, Issue, IssueCollector
from detseg.data.annotations.semantic import LabelFiles, SemanticAnnotations
from detseg.data.formats.base import DatasetSource
from detseg.errors import DataError

# Gives what is to be called after each of so many images.
Progress = Callable[[int], AbstractContextManager[Callable[[], None]]]


@dataclass(frozen=True)
class CheckResult:
    """What a check found."""

    root: Path
    format: str
    parts: dict[str, Part]  # those that can be read, the one to train on first
    sizes: dict[str, NDArray[np.int64]]  # of each part (I, 2), height and width of its files, 0 if not readable
    counts: dict[str, dict[str, int]]  # objects, or pixels, of each class in each part
    faults: list[Issue]  # in the order of KINDS
    decoded: bool

    def of_kind(self, kind: str) -> list[Issue]:
        """The faults of a kind."""
        return [fault for fault in self.faults if fault.kind == kind]

    @property
    def status(self) -> int:
        """0 where all is well, 1 where there are warnings, 2 where there are errors."""
        severities = {fault.severity for fault in self.faults}
        return 2 if "error" in severities else 1 if "warning" in severities else 0


def check(source: DatasetSource, decode: bool, jobs: int, progress: Progress) -> CheckResult:
    """Read all labels and look at every image of a data set; with ``decode`` also at all pixels."""
    root = source.tree.root
    parts: dict[str, Part] = {}
    faults: list[Issue] = []
    for split in source.splits:
        collector = IssueCollector()
        try:
            parts[split] = cast("Part", source.read(split, "any", collector))
        except DataError as error:
            faults.append(Issue("labels-unreadable", str(root), str(error)))
        faults += collector.issues
    broken = {fault.image for fault in faults}  # images of whose labels something cannot be used
    image_jobs = {split: list(_image_jobs(part)) for split, part in parts.items()}
    with progress(sum(map(len, image_jobs.values()))) as advance:
        seen = {split: look_at(wanted, decode, jobs, advance) for split, wanted in image_jobs.items()}
    looked = {str(job.path) for wanted in image_jobs.values() for job in wanted}
    # Of an image that could not be read, the look at it says more than the reader did.
    faults = [fault for fault in faults if fault.kind != "image-unreadable" or fault.file not in looked]
    for split, part in parts.items():
        for job, one in zip(image_jobs[split], seen[split], strict=True):
            faults += [Issue(kind, str(job.path), text) for kind, text in one.flaws]
        if isinstance(part, DetectionAnnotations):
            faults += object_issues(split, part, broken)
        else:
            faults += mask_issues(part, [one.numbers for one in seen[split]])
    sizes = {
        split: np.array([one.size for one in found], dtype=np.int64).reshape(-1, 2) for split, found in seen.items()
    }
    counts = class_counts(parts, {split: _sum(found) for split, found in seen.items()})
    faults += class_issues(root, counts, next(iter(source.splits)))
    faults += duplicates(parts, readable(sizes))
    order = {kind: position for position, kind in enumerate(KINDS)}
    faults = sorted(dict.fromkeys(faults), key=lambda fault: order[fault.kind])
    return CheckResult(root, source.format.name, parts, sizes, counts, faults, decode)


def readable(sizes: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.bool_]]:
    """Which images of each part have a size."""
    return {split: found.min(axis=1) > 0 for split, found in sizes.items()}


def _image_jobs(part: Part) -> Iterator[ImageJob]:
    if isinstance(part, SemanticAnnotations):
        for image, row in enumerate(part.rows.tolist()):
            mask = Path(str(part.maps.paths[row])) if isinstance(part.maps, LabelFiles) else None
            yield ImageJob(part.path(image), (0, 0), mask)
        return
    for image, (height, width) in enumerate(part.sizes.tolist()):
        yield ImageJob(part.path(image), (height, width))


def _sum(seen: list[ImageStats]) -> NDArray[np.int64]:
    """Pixels with each number in all maps of labels."""
    return sum((one.numbers for one in seen if one.numbers is not None), start=np.zeros(256, dtype=np.int64))
