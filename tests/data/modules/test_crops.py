"""Whole images and objects as pictures of one class each."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.table import ImageTable
from detseg.data.formats.format_detection import detect_source
from detseg.data.modules.crops import concat, from_annotations, from_images
from tests.check.test_checking import coco, write


def table(root: Path) -> DetectionAnnotations:
    content = coco(root)
    content["annotations"].append({"id": 9, "image_id": 0, "category_id": 2, "bbox": [0, 0, 40, 40]})
    del content["annotations"][3]
    annotations = detect_source(write(root, content)).read("all")
    assert isinstance(annotations, DetectionAnnotations)
    return annotations


def test_an_image_has_the_class_of_its_largest_object(tmp_path: Path) -> None:
    annotations = table(tmp_path)
    whole = from_images(annotations)
    names = [annotations.classes[label] if label >= 0 else None for label in whole.labels]
    assert names == ["dog", "dog", "cat", None]  # of 600 and 1600 pixels; 600; 600; none
    unlabelled = ImageTable((), (), tmp_path, annotations.files)
    assert from_images(unlabelled).labels.tolist() == [-1] * 4


def test_joined_pictures_are_those_of_each(tmp_path: Path) -> None:
    annotations = table(tmp_path)
    whole, objects = from_images(annotations), from_annotations(annotations)
    joined = concat([objects, objects.take(np.array([1]))])
    assert len(joined) == 5
    np.testing.assert_array_equal(joined.read(4, 16), objects.read(1, 16))
    assert concat([whole, whole]).boxes is None
    np.testing.assert_array_equal(concat([whole, whole]).read(6, 16), whole.read(2, 16))
