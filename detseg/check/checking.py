"""Check of a whole data set: labels, image files, classes and duplicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from detseg.check.image_checks import ImageJob, ImageStats, check_images
from detseg.check.label_checks import (
    SplitAnnotations,
    class_issues,
    count_classes,
    duplicate_issues,
    mask_issues,
    near_duplicate_issues,
    object_issues,
)
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.issues import KINDS, Issue, IssueCollector
from detseg.data.annotations.semantic import LabelFiles, SemanticAnnotations
from detseg.data.formats.base import DatasetSource
from detseg.data.formats.unused import unused_images
from detseg.errors import DataError

# Takes the number of images, and gives a function to call after each of them.
Progress = Callable[[int], AbstractContextManager[Callable[[], None]]]


@dataclass(frozen=True)
class CheckResult:
    """Annotations, sizes, counts and issues of a data set."""

    root: Path
    format: str
    splits: dict[str, SplitAnnotations]  # the readable ones, the training split first
    image_sizes: dict[str, NDArray[np.int64]]  # of each split (I, 2), height and width of the files, 0 if unreadable
    class_counts: dict[str, dict[str, int]]  # objects, or pixels, of each class in each split
    issues: list[Issue]  # in the order of KINDS
    decoded: bool

    def of_kind(self, kind: str) -> list[Issue]:
        return [issue for issue in self.issues if issue.kind == kind]

    @property
    def severity_counts(self) -> dict[str, int]:
        counts = Counter(issue.severity for issue in self.issues)
        return {"error": counts["error"], "warning": counts["warning"], "note": counts["note"]}

    @property
    def status(self) -> int:
        """Exit status: 2 if there are errors, 1 if there are warnings, else 0."""
        counts = self.severity_counts
        return 2 if counts["error"] else 1 if counts["warning"] else 0

    @property
    def has_objects(self) -> bool:
        """True for boxes, False for semantic masks."""
        return any(isinstance(annotations, DetectionAnnotations) for annotations in self.splits.values())


def check_dataset(
    source: DatasetSource, decode: bool, jobs: int, progress: Progress, near_duplicates: Path | None = None
) -> CheckResult:
    """Read all labels and the header of every image; with ``decode`` also all pixels.

    ``near_duplicates`` is a list of images to report, as ``near_duplicate_issues`` takes it.
    """
    root = source.tree.root
    splits, issues = _read_splits(source)
    broken = {issue.image for issue in issues}  # images with unusable labels
    image_jobs = {split: list(_image_jobs(annotations)) for split, annotations in splits.items()}
    with progress(sum(map(len, image_jobs.values()))) as advance:
        stats = {split: check_images(of_split, decode, jobs, advance) for split, of_split in image_jobs.items()}
    issues += unused_images(source, splits.values())
    opened = {str(job.path) for of_split in image_jobs.values() for job in of_split}
    # The check of an image file is more precise than its reader's issue.
    issues = [issue for issue in issues if issue.kind != "image-unreadable" or issue.file not in opened]
    are_reported = any(issue.kind == "image-turned" for issue in issues)  # by their reader, all at once
    for split, table in splits.items():
        for job, image in zip(image_jobs[split], stats[split], strict=True):
            of_image = [Issue(kind, str(job.path), message) for kind, message in image.issues]
            issues += [issue for issue in of_image if issue.kind != "image-turned" or not are_reported]
        if isinstance(table, DetectionAnnotations):
            issues += object_issues(split, table, broken)
        else:
            issues += mask_issues(table, [image.value_counts for image in stats[split]])
    image_sizes = {
        split: np.array([image.size for image in images], dtype=np.int64).reshape(-1, 2)
        for split, images in stats.items()
    }
    class_counts = count_classes(splits, {split: _sum_value_counts(images) for split, images in stats.items()})
    issues += class_issues(root, class_counts, next(iter(source.splits)))
    issues += duplicate_issues(splits, is_readable(image_sizes))
    if near_duplicates:
        issues += near_duplicate_issues(root, near_duplicates, splits)
    order = {kind: position for position, kind in enumerate(KINDS)}
    issues = sorted(dict.fromkeys(issues), key=lambda issue: order[issue.kind])
    return CheckResult(root, source.format.name, splits, image_sizes, class_counts, issues, decode)


def is_readable(image_sizes: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.bool_]]:
    """Return a mask (I,) of the readable images of each split."""
    return {split: sizes.min(axis=1) > 0 for split, sizes in image_sizes.items()}


def _read_splits(source: DatasetSource) -> tuple[dict[str, SplitAnnotations], list[Issue]]:
    """Read the labels of all splits, and collect their issues instead of stopping at the first one."""
    splits: dict[str, SplitAnnotations] = {}
    issues = [*source.issues]
    for split in source.splits:
        collector = IssueCollector()
        try:
            splits[split] = cast("SplitAnnotations", source.read(split, "any", collector))
        except DataError as error:
            issues.append(Issue("labels-unreadable", str(source.tree.root), str(error)))
        issues += collector.issues
    return splits, issues


def _image_jobs(annotations: SplitAnnotations) -> Iterator[ImageJob]:
    if isinstance(annotations, SemanticAnnotations):
        for index, row in enumerate(annotations.rows.tolist()):
            mask = Path(str(annotations.maps.paths[row])) if isinstance(annotations.maps, LabelFiles) else None
            yield ImageJob(annotations.path(index), (0, 0), annotations.orientation, mask)
        return
    for index, (height, width) in enumerate(annotations.sizes.tolist()):
        yield ImageJob(annotations.path(index), (height, width), annotations.orientation)


def _sum_value_counts(images: list[ImageStats]) -> NDArray[np.int64]:
    """Count the pixels (256,) with each value over all semantic masks."""
    return sum(
        (image.value_counts for image in images if image.value_counts is not None), start=np.zeros(256, dtype=np.int64)
    )
