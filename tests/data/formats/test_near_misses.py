"""Data sets that are recognised and not read, and those of which a part is."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from detseg.data.formats.format_detection import detect_source
from detseg.errors import DataError
from tests.data import made

DATUMARO = {"infos": {}, "categories": {"label": {"labels": []}}, "items": [{"id": "a", "annotations": []}]}
VOTT = {"name": "n", "securityToken": "t", "tags": [], "assets": {"1": {"asset": {"name": "a.jpg"}, "regions": []}}}
SUPERVISELY = {"size": {"height": 48, "width": 64}, "objects": [{"classTitle": "cat", "geometryType": "rectangle"}]}
LABELBOX = {"data_row": {"id": "1"}, "media_attributes": {}, "projects": {}}
MIN = [{"image": "/data/upload/a.jpg", "label": [{"original_width": 64, "rectanglelabels": ["cat"]}]}]
VIA_CSV = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
BDD = [{"name": "a.jpg", "labels": [{"category": "car", "box2d": {"x1": 1, "y1": 1, "x2": 2, "y2": 2}}]}]
OCHUMAN = {"keypoint_visible": {}, "images": [{"annotations": [{"segms": {}, "keypoints": []}]}]}


@pytest.mark.parametrize(
    ("file", "content", "name", "advice"),
    [
        ("annotations/train.json", DATUMARO, "Datumaro", "-if datumaro -f coco"),
        ("vott-json-export/n-export.json", VOTT, "VoTT", "export it from VoTT as 'Pascal VOC'"),
        ("ds0/ann/a.jpg.json", SUPERVISELY, "Supervisely", "'Export to COCO'"),
        ("train.tfrecord", "", "TFRecord", "-if tf_detection_api -f coco"),
        ("export.ndjson", LABELBOX, "Labelbox", "to a .csv with the header filename,class,xmin,ymin,xmax,ymax"),
        ("project-min.json", MIN, "Label Studio's JSON-MIN", "export it from Label Studio as JSON"),
        ("via_export_csv.csv", VIA_CSV, "VIA's export as CSV", "export it from VIA as JSON"),
        ("train/labelTxt/P0000.txt", "imagesource:GoogleEarth\ngsd:0.1\n", "DOTA", "its boxes are rotated"),
        ("annotation_train.odgt", '{"ID": "a", "gtboxes": []}\n', "CrowdHuman", "to a .csv"),
        ("ochuman.json", OCHUMAN, "OCHuman", "ochuman_coco_format_val_range_0.00_1.00.json"),
        ("labels/det_20/det_train.json", BDD, "BDD100K", "python -m bdd100k.label.to_coco -m det"),
        ("MOT17-02/gt/gt.txt", "1,1,912,484,97,109,0,7,1\n", "a MOT challenge", "-if mot_seq -f coco"),
        ("FullIJCNN2013/gt.txt", "00000.ppm;774;411;815;446;11\n", "GTSDB", "filename;xmin;ymin;xmax;ymax;class"),
        ("stuffthingmaps_trainval2017/train2017/1.png", None, "COCO-Stuff", "into masks/train"),
        ("images/ADE/training/a/ADE_train_1_seg.png", None, "the full ADE20K", "ADEChallengeData2016.zip"),
    ],
)
@pytest.mark.parametrize("task", ["detection", "semantic_segmentation"])
def test_it_is_recognised(tmp_path: Path, file: str, content: object, name: str, advice: str, task: str) -> None:
    made.image(tmp_path / "images" / "a.jpg")
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        made.image(path)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError) as raised:
        detect_source(tmp_path, task=task)  # type: ignore[arg-type]
    message = str(raised.value)
    assert message.startswith(f"{tmp_path}: {file} is of {name}, which is not read: ")
    assert advice in message


@pytest.mark.parametrize(
    "header",
    [
        "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,64,48,cat,4,6,24,36\n",  # beside a TFRecord
        '"image","xmin","ymin","xmax","ymax","label"\n"a.jpg",4,6,24,36,"cat"\n',  # of VoTT
        "filename;xmin;ymin;xmax;ymax;class\na.jpg;4;6;24;36;cat\n",  # as is advised for GTSDB
    ],
)
def test_tables_beside_other_formats(tmp_path: Path, header: str) -> None:
    made.image(tmp_path / "a.jpg")
    (tmp_path / "train_labels.csv").write_text(header)
    (tmp_path / "train.record").write_bytes(b"")
    table = detect_source(tmp_path).read("all")
    assert (table.classes, table.boxes.tolist()) == (("cat",), [[4, 6, 24, 36]])


def test_taco(tmp_path: Path) -> None:
    """Its annotations.json is COCO's, with images in folders of batches."""
    made.image(tmp_path / "batch_1" / "000006.jpg")
    entry = {"id": 0, "width": 64, "height": 48, "file_name": "batch_1/000006.jpg", "license": None}
    one = {"id": 1, "image_id": 0, "category_id": 6, "segmentation": [[4, 6, 24, 6, 24, 36]], "bbox": [4, 6, 20, 30]}
    made.coco(tmp_path / "annotations.json", [entry], [one | {"area": 300.0, "iscrowd": 0}], {6: "Glass bottle"})
    content = json.loads((tmp_path / "annotations.json").read_text())
    (tmp_path / "annotations.json").write_text(json.dumps(content | {"scene_annotations": [], "scene_categories": []}))
    table = detect_source(tmp_path).read("all", "all")
    assert (table.files.tolist(), table.classes) == (["batch_1/000006.jpg"], ("Glass bottle",))


@pytest.mark.parametrize("folder", ["", "PennFudanPed"])
def test_penn_fudan(tmp_path: Path, folder: str) -> None:
    root = tmp_path / folder
    made.image(root / "PNGImages" / "FudanPed00001.png")
    mask = np.zeros((48, 64), np.uint8)
    mask[6:36, 4:24], mask[10:20, 30:40] = 1, 2
    (root / "PedMasks").mkdir()
    file = root / "PedMasks" / "FudanPed00001_mask.png"
    cv2.imwrite(str(file), mask)
    source = detect_source(tmp_path)
    table = source.read("all", "all")
    assert (table.classes, table.boxes.tolist()) == (("pedestrian",), [[4, 6, 24, 36], [30, 10, 40, 20]])
    file.write_bytes(b"")
    with pytest.raises(DataError, match=rf"{file}"):
        source.read("all")


def test_key_points_of_coco_and_parts_of_voc(tmp_path: Path) -> None:
    """As in person_keypoints_val2017.json and in VOC's annotations of the layout of persons."""
    entries = [{"id": i, "file_name": f"{i}.png", "height": 48, "width": 64} for i in range(2)]
    for entry in entries:
        made.image(tmp_path / "coco" / "images" / str(entry["file_name"]), seed=int(str(entry["id"])))
    person = {"category_id": 1, "bbox": [4, 6, 20, 30], "segmentation": [[4, 6, 24, 6, 24, 36]], "iscrowd": 0}
    objects = [{**person, "id": 1, "image_id": 0, "num_keypoints": 1, "keypoints": [5, 7, 2] + [0] * 48}]
    made.coco(tmp_path / "coco" / "labels.json", entries, [*objects, {**person, "id": 2, "image_id": 1}], {1: "person"})
    source = detect_source(tmp_path / "coco")
    assert source.read("all", "all").boxes.tolist() == [[4, 6, 24, 36]] * 2
    assert "the key points of 1 objects are not read" in made.reported(source)
    part = "<part><name>head</name><bndbox><xmin>6</xmin><ymin>8</ymin><xmax>9</xmax><ymax>11</ymax></bndbox></part>"
    made.voc(tmp_path / "voc", "a", made.box("person", 5, 7, 24, 36, part * 2) + made.box("person", 1, 1, 9, 9))
    source = detect_source(tmp_path / "voc")
    assert source.read("all").boxes.tolist() == [[4, 6, 24, 36], [0, 0, 9, 9]]
    assert "2 parts of objects are not read" in made.reported(source)


def test_the_lists_of_darknet(tmp_path: Path) -> None:
    """Labels beside the images, and obj.data with the lists of the splits and the names."""
    for number, stem in enumerate("abc"):
        made.image(tmp_path / "data" / "obj" / f"{stem}.jpg", seed=number)
        (tmp_path / "data" / "obj" / f"{stem}.txt").write_text("1 0.5 0.5 0.25 0.5\n")
    data = tmp_path / "data"
    (data / "obj.names").write_text("cat\ndog\n")
    (data / "train.txt").write_text("data/obj/a.jpg\ndata/obj/c.jpg\n")
    (data / "test.txt").write_text("data/obj/b.jpg\n")
    lines = (
        "classes= 2",
        "train  = data/train.txt",
        "valid  = data/test.txt",
        "names = data/obj.names",
        "backup = backup/",
    )
    (data / "obj.data").write_text("\n".join(lines))
    source = detect_source(tmp_path)
    assert source.format.name == "YOLO"
    train, val = source.read("train"), source.read("val")
    assert (train.files.tolist(), val.files.tolist()) == (["data/obj/a.jpg", "data/obj/c.jpg"], ["data/obj/b.jpg"])
    assert (train.classes, train.boxes.tolist()) == (("cat", "dog"), [[24, 12, 40, 36]] * 2)


def test_other_json_beside_coco_is_no_second_format(tmp_path: Path) -> None:
    made.simple_coco(tmp_path / "annotations" / "instances.json", tmp_path / "images")
    place = {"type": "Point", "coordinates": [1, 2], "label": "field", "width": 3}
    (tmp_path / "map.json").write_text(json.dumps({"features": [place]}))
    (tmp_path / "run.json").write_text(json.dumps({"data": 1, "annotations": 2, "result": 3, "regions": 4}))
    assert detect_source(tmp_path).format.name == "COCO"
