"""The page and report.json of a made run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.metrics import Detections
from detseg.metrics.operating_point import confusion
from detseg.report.comparison import read_report, write_comparison
from detseg.report.evaluation import DetectionRun
from detseg.report.page import write_detection_report
from detseg.report.pictures import TRUE, Album, View
from detseg.report.sections import THRESHOLDS
from detseg.report.slices import read_attributes
from detseg.report.training import read_history, series
from tests.report.runs import detect, run_of, write_images

HOSTILE = "</script><img src=x onerror=alert(1)>$x$"
DATA = re.compile(r'<script id="data" type="application/json">(.*?)</script>', re.DOTALL)
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DetectionRun, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("report")
    annotations = write_images(folder / "images", 30)
    annotations = replace(annotations, classes=("bolt", HOSTILE, "washer"))
    annotations.path(0).rename(annotations.root / "<b>&'.jpg")
    annotations.files[0] = "<b>&'.jpg"
    run = run_of(annotations, detect(annotations), history=[{"step": s, "train/loss": 2 / (s + 1)} for s in (0, 9, 19)])
    return folder / "report.html", run, write_detection_report(run, folder / "report.html")


def test_the_page_stands_alone_and_escapes_names(written: tuple[Path, DetectionRun, dict[str, Any]]) -> None:
    page = written[0].read_text(encoding="utf-8")
    without_data = re.sub(r"data:image/jpeg;base64,[\w+/=]+", "", page)
    assert len(page) < 8e6
    assert set(re.findall(r"https?://[\w.]+", without_data)) == {"http://www.w3.org"}  # of namespaces
    assert "<img src=x" not in page
    assert "<b>&'" not in page
    assert page.count("</script>") == 2
    assert "default-src 'none'" in page


def test_a_page_that_is_too_large_counts_the_images_it_leaves_out(
    written: tuple[Path, DetectionRun, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = written[0].read_text(encoding="utf-8")
    limit = (written[0].stat().st_size + len(re.sub(r"data:image/jpeg;base64,[\w+/=]+", "", whole))) // 2
    monkeypatch.setattr("detseg.report.page.MAX_BYTES", limit)
    write_detection_report(written[1], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    shown, all_images = (len(json.loads(DATA.findall(one)[0])["images"]) for one in (page, whole))
    assert limit - 50_000 < len(page.encode()) <= limit
    assert 0 < shown < all_images
    assert f"{all_images - shown} images did not fit into the " in page


def test_the_values_are_those_of_the_run(written: tuple[Path, DetectionRun, dict[str, Any]]) -> None:
    path, run, report = written
    values = json.loads(path.with_name("report.json").read_text(encoding="utf-8"))
    figures = {one["name"]: one for one in values["verdict"]["figures"]}
    for name in ("AP", "AP50", "AP75"):
        assert figures[name]["value"] == pytest.approx(run.metrics[name], rel=1e-5)
        assert figures[name]["low"] < run.metrics[name] < figures[name]["high"]
    assert values["causes"] == []
    assert sum(values["stages"]["outcomes"].values()) == len(run.truth.labels)
    steps = values["operating_point"]["steps"]
    boxes = run.boxes
    counts = confusion(run.truth, run.detections, boxes.matches, boxes.confused, 3, THRESHOLDS[9])
    assert steps[9]["tp"] == counts.tp.tolist()
    assert values["images"].keys() == {str(name) for name in run.annotations.files}
    assert all("views" not in one for one in values["label_errors"])
    assert report["label_errors"][0]["views"]


def test_slices_of_a_table_have_the_ap_of_their_images(tmp_path: Path) -> None:
    annotations = write_images(tmp_path / "images", 20)
    table = tmp_path / "cameras.csv"
    table.write_text("image,camera\n" + "".join(f"0_{i},{'left' if i < 8 else 'right'}\n" for i in range(20)))
    attributes = read_attributes(table, [str(name) for name in annotations.files])
    run = run_of(annotations, detect(annotations), attributes=attributes)
    report = write_detection_report(run, tmp_path / "page.html")
    left = report["slices"]["camera"][1]
    assert (left["name"], left["images"]) == ("left", 8)
    part = annotations.subset(range(8))
    rows = run.detections.images < 8
    detections = run.detections._replace(
        **{name: getattr(run.detections, name)[rows] for name in run.detections._fields[:4]}
    )
    assert left["AP50"] == pytest.approx(run_of(part, detections).metrics["AP50"], abs=1e-6)
    assert (tmp_path / "page.json").exists()


def test_a_comparison_is_paired(tmp_path: Path) -> None:
    annotations = write_images(tmp_path / "images", 25)
    reports = {}
    for name, recall in (("one", 0.7), ("two", 0.95)):
        (tmp_path / name).mkdir()
        write_detection_report(run_of(annotations, detect(annotations, 1, recall)), tmp_path / name / "report.html")
        reports[name] = read_report(tmp_path / name)
    compared = write_comparison(reports, tmp_path / "comparison.html")
    ap = compared["differences"][0]["metrics"][0]
    pairs = np.array(reports["two"]["bootstrap"]["AP"]) - np.array(reports["one"]["bootstrap"]["AP"])
    assert [ap["before"], ap["after"]] == [reports[name]["verdict"]["figures"][0]["value"] for name in ("one", "two")]
    assert ap["difference"] == pytest.approx(ap["after"] - ap["before"])
    assert ap["difference"] == pytest.approx(pairs.mean(), abs=0.02)
    assert (ap["low"], ap["high"]) == pytest.approx(np.quantile(pairs, [0.025, 0.975]))
    assert ap["low"] > 0
    assert len(compared["flipped"]["two"]["better"]) > len(compared["flipped"]["two"]["worse"])


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_the_slider_changes_counts_cells_and_images(
    written: tuple[Path, DetectionRun, dict[str, Any]], tmp_path: Path
) -> None:
    path, _, report = written
    move = """<script>
    const at = document.querySelector("#threshold"); at.value = 15; at.dispatchEvent(new Event("input"));
    document.querySelector("#cells button").click();
    document.body.dataset.hidden = document.querySelectorAll(".below").length;
    </script></body>"""
    page = tmp_path / "moved.html"
    page.write_text(path.read_text(encoding="utf-8").replace("</body>", move), encoding="utf-8")
    line = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    line += ["--dump-dom", page.as_uri()]
    dom = subprocess.run(line, capture_output=True, encoding="utf-8", timeout=120, check=True).stdout
    step = report["operating_point"]["steps"][15]
    row = re.search(r'<tr data-label="-1">(.*?)</tr>', dom, re.DOTALL)
    assert row
    cells = re.findall(r"<td>([^<]*)</td>", row[1])
    assert [int(value) for value in cells[1:4]] == [sum(step[name]) for name in ("tp", "fp", "fn")]
    assert re.search(r'<output id="at">0.80</output>', dom)
    hidden = re.search(r'data-hidden="(\d+)"', dom)
    assert hidden
    assert int(hidden[1]) > 50
    assert re.search(r'id="cell"[^>]*><figure', dom)


def test_an_object_of_a_crowded_image_keeps_its_detection(written: tuple[Path, DetectionRun, dict[str, Any]]) -> None:
    run = written[1]
    image = int(run.truth.images[run.boxes.matches.objects[run.boxes.tp]][0])
    chosen = run.detections.images == image
    confident = np.full(60, image), np.tile([0.0, 0, 9, 9], (60, 1)), np.zeros(60, np.int64), np.full(60, 0.999)
    columns = [
        np.concatenate([one[~chosen], one[chosen], more])
        for one, more in zip(run.detections[:4], confident, strict=True)
    ]
    order = np.argsort(columns[0], kind="stable")
    crowded = run_of(run.annotations, Detections(*(one[order] for one in columns)))
    album = Album(crowded.boxes)
    album.add([View(image)])
    shown = album.to_json(10**6)[str(image)]["detections"]
    objects = crowded.boxes.matches.objects[crowded.boxes.tp]
    assert {one["target"] for one in shown if one["status"] == TRUE} == {
        int(row - np.searchsorted(crowded.truth.images, image))
        for row in objects[crowded.truth.images[objects] == image]
    }


def test_a_log_that_was_cut_off_is_read(tmp_path: Path) -> None:
    (tmp_path / "metrics-1.csv").write_text("step,train/loss\n0,2.5\n")
    (tmp_path / "metrics-old.csv").write_text("step,train/loss\n0,9\n")
    (tmp_path / "metrics.csv").write_text("step,train/loss\n1,1.5\n2,1e\n,7\n3,1,4,4\n")
    assert series(read_history(tmp_path), "train/loss") == ([0, 1, 3], [2.5, 1.5, 1])
