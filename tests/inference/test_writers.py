"""Results in other formats hold what the predictions are."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as reference
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detseg import checkpoint
from detseg.check.checking import check_dataset
from detseg.data.formats.format_detection import detect_source
from detseg.errors import ConfigError, DetsegError
from detseg.inference import Predictor, RayPredictor
from detseg.inference.result_files import RESULTS, SETTINGS, Entry
from detseg.inference.writers import DATA_SETS, check_format, write_results
from detseg.models import Classifier
from detseg.modules.backbones import MobileNetV1
from detseg.preprocessing import CenterCropConfig
from detseg.tasks import ClassificationTask, DetectionTask
from tests.colours import COLOURS, IDS, ColourDetector, ColourMaskDetector, write_colours

HEIGHT, WIDTH = 60, 90
FILES = ("1.png", "2.png", "inner/3.png")
SETTING = {"task": "detection", "classes": [*COLOURS], "category_ids": [*IDS.values()]}


def entry_of(file: Path, count: int, seed: int, masks: bool) -> Entry:
    """Random objects, not of whole pixels."""
    random = np.random.default_rng(seed)
    starts = random.uniform(0, 30, (count, 2))
    boxes = np.concatenate([starts, starts + random.uniform(5, 29, (count, 2))], axis=1).round(2)
    entry: Entry = {"file": str(file), "size": [HEIGHT, WIDTH], "classes": random.choice([*COLOURS], count).tolist()}
    entry |= {"scores": random.uniform(0.2, 1, count).round(4).tolist(), "boxes": boxes.tolist()}
    if masks:
        entry["masks"] = []
        for x1, y1, x2, y2 in boxes.astype(int).tolist():
            inside = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
            inside[y1:y2, x1:x2] = random.random((y2 - y1, x2 - x1)) < 0.9
            entry["masks"].append({"size": [HEIGHT, WIDTH], "counts": reference.encode(inside)["counts"].decode()})
    return entry


def write(folder: Path, masks: bool = False) -> list[Entry]:
    """Write images, and results of them: with objects, without one, and of an image that could not be read."""
    entries = []
    for number, name in enumerate(FILES):
        file = folder / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (number, 0, 0)).save(file)
        entries.append(entry_of(file, (5, 0, 8)[number], number, masks))
    entries.append({"file": str(folder / "images" / "4.png"), "error": "not an image"})
    (folder / RESULTS).write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    (folder / SETTINGS).write_text(json.dumps(SETTING))
    return entries


def objects(entry: Entry, threshold: float) -> list[tuple[str, Any]]:
    kept = zip(entry["classes"], entry["boxes"], entry["scores"], strict=True)
    return sorted((label, box) for label, box, score in kept if score >= threshold)


@pytest.mark.parametrize("threshold", [0, 0.6])
@pytest.mark.parametrize("name", DATA_SETS)
def test_a_data_set_of_predictions_is_read_back(tmp_path: Path, name: str, threshold: float) -> None:
    entries = write(tmp_path)
    out, _ = write_results(tmp_path, name, threshold)
    source = detect_source(out)
    assert source.format.name == name
    (split,) = source.splits
    table: Any = source.read(split)
    assert {Path(str(file)).stem for file in table.files} == {"1", "2", "3"}
    for index in range(len(table)):
        entry = entries[int(table.path(index).stem) - 1]
        assert table.sizes[index].tolist() == [HEIGHT, WIDTH]
        assert table.path(index).read_bytes() == Path(entry["file"]).read_bytes()
        rows = table.objects(index)
        labels = [table.classes[label] for label in table.labels[rows]]
        read = sorted(zip(labels, table.boxes[rows].tolist(), strict=True))
        expected = objects(entry, threshold)
        assert [label for label, _ in read] == [label for label, _ in expected]
        assert np.array([box for _, box in read]) == pytest.approx(np.array([box for _, box in expected]), abs=1e-6)
    result = check_dataset(source, False, 1, lambda _: nullcontext(lambda: None))
    assert not [issue for issue in result.issues if issue.severity == "error"]


@pytest.mark.parametrize("name", ["COCO", "YOLO", "LabelMe"])
def test_masks_of_predictions_are_read_back(tmp_path: Path, name: str) -> None:
    entries = write(tmp_path, masks=True)
    out, losses = write_results(tmp_path, name)
    source = detect_source(out)
    table: Any = source.read(next(iter(source.splits)), "all")
    for index in range(len(table)):
        rows = table.objects(index)
        read = Counter(table.masks.rle(row, HEIGHT, WIDTH) for row in range(rows.start, rows.stop))
        assert read == Counter(mask["counts"].encode() for mask in entries[int(table.path(index).stem) - 1]["masks"])
    assert any("boxes become" in what for what in losses) == (name != "COCO")


def test_coco_results_are_measured_by_pycocotools(tmp_path: Path) -> None:
    root = write_colours(tmp_path / "colours")
    model = ColourMaskDetector()
    model.class_names, model.category_ids = tuple(COLOURS), tuple(IDS.values())
    lines = [json.dumps(result.to_json()) for result in Predictor(model).stream(root / "val", bad_images="result")]
    (tmp_path / RESULTS).write_text("\n".join([*lines, json.dumps({"file": "broken.png", "error": "x"})]) + "\n")
    (tmp_path / SETTINGS).write_text(json.dumps(SETTING))
    path, _ = write_results(tmp_path, "coco_results")
    truth = json.loads((root / "annotations" / "instances_val.json").read_text())
    for one in (*truth["images"], *(truth["annotations"])):
        key = "image_id" if "image_id" in one else "id"
        one[key] -= 99  # positions from 1, since the names are no numbers
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    coco = COCO(str(tmp_path / "truth.json"))
    for kind in ("bbox", "segm"):
        evaluation = COCOeval(coco, coco.loadRes(str(path)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1.0), kind
    write(tmp_path)
    results = json.loads(write_results(tmp_path, "coco_results", 1)[0].read_text())
    assert results == []
    results = json.loads(write_results(tmp_path, "coco_results")[0].read_text())
    assert Counter(one["image_id"] for one in results) == {1: 5, 3: 8}  # the numbers of the files


def test_parquet_holds_every_column(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    entries = write(tmp_path, masks=True)
    rows = parquet.read_table(write_results(tmp_path, "parquet")[0]).to_pylist()
    for row, entry in zip(rows, entries, strict=True):
        assert (row["file"], row["error"], row["classes"]) == (entry["file"], entry.get("error"), entry.get("classes"))
        assert [row["height"], row["width"]] == entry.get("size", [None, None])
        assert row["masks"] == ([mask["counts"] for mask in entry["masks"]] if "masks" in entry else None)
        for key in ("boxes", "scores"):
            assert np.array(row[key] or []) == pytest.approx(np.array(entry.get(key, [])), abs=1e-5)
    fractions = {"file": "a.png", "size": [2, 2], "class_fractions": {"cat": 0.25, "dog": 0.75}}
    (tmp_path / RESULTS).write_text(json.dumps(fractions) + "\n")
    (row,) = parquet.read_table(write_results(tmp_path, "parquet")[0]).to_pylist()
    assert dict(row["class_fractions"]) == fractions["class_fractions"]


def test_formats_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "COCO").mkdir()
    for name, task, file, message in (
        ("COCO", "classification", "a.jpg", "as COCO: holds detections, and this model is for classification"),
        ("YOLO", "detection", "zip://a.jpg::b.zip", r"as YOLO: zip://a\.jpg::b\.zip is no file on this disk"),
        ("COCO", "detection", "a.jpg", "as COCO: .*COCO is there already"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_format(tmp_path, name, task, [file])
    with pytest.raises(DetsegError, match=r"predictions\.settings\.json: cannot be read"):
        write_results(tmp_path, "YOLO")


@pytest.fixture(scope="module")
def colour_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    task = DetectionTask(ColourDetector())
    task.model.class_names = tuple(COLOURS)
    path = tmp_path_factory.mktemp("ray") / "best.ckpt"
    checkpoint.save(task, path)
    write_colours(path.parent / "data", val=5)
    (path.parent / "data" / "val" / "broken.png").write_bytes(b"no image")
    return path


def test_a_batch_of_ray_becomes_an_arrow_table(colour_checkpoint: Path) -> None:
    pytest.importorskip("pyarrow")
    files = sorted((colour_checkpoint.parent / "data" / "val").iterdir())
    expected = [result.to_json() for result in Predictor(ColourDetector()).stream(map(str, files), bad_images="result")]
    predictor = RayPredictor(colour_checkpoint, device="cpu")
    content = np.array([file.read_bytes() for file in files], dtype=object)
    rows = predictor({"bytes": content, "path": [str(file) for file in files]}).to_pylist()
    assert [row["file"] for row in rows] == [entry["file"] for entry in expected]
    assert rows[0]["error"].endswith("broken.png: not an image, or a damaged one; replace the file or leave it out")
    for row, entry in zip(rows[1:], expected[1:], strict=True):
        assert row["error"] is None
        assert np.array(row["boxes"]) == pytest.approx(np.array(entry["boxes"]), abs=1e-5)
        assert len(row["classes"]) > 0
    arrays = np.stack([np.asarray(Image.open(file)) for file in files[1:]])
    again = predictor({"image": arrays}).to_pylist()
    assert [{**row, "file": None} for row in rows[1:]] == again
    (row,) = predictor({"bytes": [b"no image"]}).to_pylist()
    assert row["error"].startswith("image: not an image")
    with pytest.raises(ConfigError, match="no column bytes or image, but text"):
        predictor({"text": []})


def test_ray_data_gives_the_results_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes to it
    files = [write_colours(tmp_path) / "val" / f"val{number}.png" for number in range(3)]
    model = Classifier(MobileNetV1(alpha=0.125), 3)
    model.class_names, model.preprocessing = tuple(COLOURS), CenterCropConfig(32)
    checkpoint.save(ClassificationTask(model), tmp_path / "best.ckpt")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        data = ray.data.read_binary_files([*map(str, files)], include_paths=True)
        rows = data.map_batches(
            RayPredictor, fn_constructor_args=[str(tmp_path / "best.ckpt")], concurrency=1
        ).take_all()
    finally:
        ray.shutdown()
    expected = {str(result.path): result.to_json() for result in Predictor(model.eval())(files)}
    assert {Path(row["file"]) for row in rows} == {*files}
    for row in rows:
        entry = expected[row["file"]]
        assert [*row["classes"]] == entry["classes"]
        assert [*row["scores"]] == pytest.approx(entry["scores"], abs=1e-4)
