"""Images of a folder that no split uses."""

from __future__ import annotations

import os
from collections.abc import Iterable

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.issues import Issue
from detseg.data.annotations.table import ImageTable
from detseg.data.formats.base import DatasetSource
from detseg.data.formats.layout import shows_labels


def unused_images(source: DatasetSource, tables: Iterable[ImageTable]) -> list[Issue]:
    """List the images of a detection data set that none of the ``tables`` of its splits has."""
    tables = [*tables]
    if not tables or not all(isinstance(table, DetectionAnnotations) for table in tables):
        return []
    used = {os.path.normpath(table.path(index)) for table in tables for index in range(len(table))}
    named = {issue.file for issue in source.issues}
    issues = []
    for image in source.tree.images:
        path = os.path.normpath(source.tree.root / image)
        if path not in used and path not in named and not shows_labels(image):
            message = f"{path}: is in no split; some programs leave images without objects out of their label files"
            issues.append(Issue("image-unused", path, message))
    return issues
