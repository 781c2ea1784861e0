from __future__ import annotations

import json
import logging
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg.data import DetectionDataModule
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.formats.format_detection import detect_source
from detseg.data.formats.layout import Tree
from detseg.data.formats.lvis import LvisFormat, frequencies, read_lvis
from detseg.errors import DataError
from tests.data import made

ADDRESS = "http://images.cocodataset.org/{}2017/{:012}.jpg"


def lvis(root: Path, split: str, folders: list[str], **more: Any) -> Path:
    """A file of a split whose images lie in these folders of COCO, with an object in the first."""
    images = []
    for number, folder in enumerate(folders, start=1):
        made.image(root / f"{folder}2017" / f"{number:012}.jpg", seed=number)
        images.append({"id": number, "coco_url": ADDRESS.format(folder, number), "height": 48, "width": 64,
                       "neg_category_ids": [2], "not_exhaustive_category_ids": []})  # fmt: skip
    square = [4, 6, 24, 6, 24, 36, 4, 36]
    objects = [
        {"id": 7, "image_id": 1, "category_id": 3, "bbox": [4, 6, 20, 30], "area": 600, "segmentation": [square]}
    ]
    names = {1: "aerosol_can", 2: "air_conditioner", 3: "airplane"}
    categories = [{"id": number, "name": name, "frequency": "c"} for number, name in names.items()]
    file = root / f"lvis_v1_{split}.json"
    file.write_text(json.dumps({"images": images, "annotations": objects, "categories": categories, **more}))
    return file


def test_images_are_those_of_coco(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lvis(tmp_path, "train", ["train", "train", "val"])
    lvis(tmp_path, "val", ["val", "train"])  # LVIS takes images of train2017 to validate on
    with caplog.at_level(logging.INFO):
        data = DetectionDataModule(str(tmp_path), masks="all")
        found = data.train_annotations
    assert "in the format LVIS (train, val)" in caplog.text
    assert "only the metric LvisAP uses neg_category_ids and not_exhaustive_category_ids" in caplog.text
    assert "3 rare, 0 common, 0 frequent" in caplog.text
    assert found.files.tolist() == [f"{s}2017/{n:012}.jpg" for s, n in (("train", 1), ("train", 2), ("val", 3))]
    assert all(found.path(row).is_file() for row in range(3))
    assert (found.classes, found.category_ids) == (("aerosol_can", "air_conditioner", "airplane"), (1, 2, 3))
    assert (found.boxes.tolist(), found.labels.tolist(), found.areas.tolist()) == ([[4, 6, 24, 36]], [2], [600])
    assert len(data.val_annotations) == 2


def test_images_may_lie_deeper_and_coco_may_be_there_too(tmp_path: Path) -> None:
    file = lvis(tmp_path, "train", ["train"])
    (tmp_path / "coco" / "images").mkdir(parents=True)
    (tmp_path / "train2017").rename(tmp_path / "coco" / "images" / "train2017")
    assert read_lvis(tmp_path, file).files.tolist() == ["coco/images/train2017/000000000001.jpg"]
    made.simple_coco(tmp_path / "instances_train2017.json", tmp_path / "coco" / "images" / "train2017")
    with pytest.raises(DataError, match=r"more than once: COCO; LVIS in .*lvis_v1_train\.json.*`format='YOLO'`"):
        detect_source(tmp_path)
    assert len(detect_source(tmp_path, "LVIS").read("all")) == 1


def test_two_files_of_a_split_are_one_too_many(tmp_path: Path) -> None:
    for name in ("train", "val", "train_plain"):
        lvis(tmp_path, name, ["train"])
    with pytest.raises(DataError, match=r"the train split: lvis_v1_train\.json, lvis_v1_train_plain\.json; keep one"):
        LvisFormat().detect(Tree(tmp_path))


def test_frequencies_count_images() -> None:
    counts = {0: 10, 1: 11, 2: 100, 3: 101}  # the limits of the paper: 1 to 10, 11 to 100, above
    plain = made.annotations([5] * 120, classes=5)
    labels = np.full((120, 5), 4)
    for label, count in counts.items():
        labels[:count, label] = label
    labels[:, 4] = labels[:, 0]  # a class twice in an image is in one image
    made_up = DetectionAnnotations(**{**plain.__dict__, "labels": labels.ravel()})
    assert frequencies(made_up).tolist() == [0, 1, 1, 2, 2]


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["images", "annotations", "categories"]),
        st.lists(
            st.dictionaries(
                st.sampled_from(["id", "coco_url", "image_id", "category_id", "bbox", "neg_category_ids", "name"]),
                st.none() | st.integers(-1, 3) | st.text(max_size=8) | st.lists(st.floats(), max_size=4),
            ),
            max_size=3,
        )
        | st.text(max_size=3),
    )
)
def test_nothing_but_data_errors(content: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = lvis(Path(folder), "train", ["train"], **content)
        with suppress(DataError):
            read_lvis(Path(folder), file, "all")
