"""Data sets that are recognised but not read, each with a way to one that is."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from detseg.data.formats.layout import Tree, has_keys, read_start

MANY = 20  # files to look into
STUFF = re.compile(r"stuffthingmaps|_pixelmaps")  # names of folders
CSV = "filename,class,xmin,ymin,xmax,ymax"
DATUM = "convert it with Datumaro: `datum convert -i FOLDER -if {} -f coco -o OUT -- --save-media`"


class NearMiss(NamedTuple):
    """A data set that cannot be read."""

    name: str
    find: Callable[[Tree], str | None]  # a file by which it is recognised
    advice: str


def near_misses(tree: Tree) -> list[str]:
    """Describe the known data sets of a folder that cannot be read, each with the way on."""
    files = ((one, one.find(tree)) for one in NEAR_MISSES)
    return [f"{file} is of {one.name}, which is not read: {one.advice}" for one, file in files if file]


def _json(*keys: str) -> Callable[[Tree], str | None]:
    """Find a JSON file with some keys."""
    return lambda tree: _first(tree, (".json", ".ndjson", ".jsonl"), lambda file: has_keys(tree.root / file, *keys))


def _suffix(*suffixes: str) -> Callable[[Tree], str | None]:
    """Find a file with one of some suffixes."""
    return lambda tree: next(iter(tree.ending(*suffixes)), None)


def _start(suffix: str, *texts: str) -> Callable[[Tree], str | None]:
    """Find a file with some texts in its beginning."""
    return lambda tree: _first(
        tree, (suffix,), lambda file: all(text.encode() in read_start(tree.root / file) for text in texts)
    )


def _inside(folder: str, *suffixes: str) -> Callable[[Tree], str | None]:
    """Find a file in a folder of a name."""
    return lambda tree: next((file for file in tree.ending(*suffixes) if f"/{file}".split("/")[-2] == folder), None)


def _first(tree: Tree, suffixes: tuple[str, ...], fits: Callable[[str], bool]) -> str | None:
    return next((file for file in tree.ending(*suffixes)[:MANY] if fits(file)), None)


NEAR_MISSES = (
    NearMiss("Datumaro", _json("items", "categories"), DATUM.format("datumaro")),
    NearMiss(
        "VoTT", _json("assets", "regions", "tags"), "export it from VoTT as 'Pascal VOC' or 'Comma Separated Values'"
    ),
    NearMiss("Supervisely", _inside("ann", ".json"), "export it with Supervisely's application 'Export to COCO'"),
    NearMiss("TFRecord", _suffix(".tfrecord", ".tfrecords", ".record"), DATUM.format("tf_detection_api")),
    NearMiss("Labelbox", _json("data_row", "projects"), f"write a line for each box to a .csv with the header {CSV}"),
    NearMiss(
        "Label Studio's JSON-MIN", _json("original_width", "rectanglelabels"), "export it from Label Studio as JSON"
    ),
    NearMiss("VIA's export as CSV", _start(".csv", "region_shape_attributes"), "export it from VIA as JSON"),
    NearMiss(
        "DOTA",
        _inside("labelTxt", ".txt"),
        f"its boxes are rotated; write the boxes around them to a .csv with the header {CSV}",
    ),
    NearMiss("CrowdHuman", _suffix(".odgt"), f"write its visible or full boxes to a .csv with the header {CSV}"),
    NearMiss(
        "OCHuman",
        _json("keypoint_visible", "segms"),
        "its ochuman_coco_format_val_range_0.00_1.00.json and ..._test_... are COCO's; leave this file out",
    ),
    NearMiss(
        "BDD100K", _json("box2d", "category"), "convert it: `python -m bdd100k.label.to_coco -m det -i FILE -o OUT`"
    ),
    NearMiss("a MOT challenge", _inside("gt", "gt.txt"), DATUM.format("mot_seq")),
    NearMiss(
        "GTSDB",
        _start(".txt", ".ppm;"),
        "copy gt.txt to gt.csv below the line filename;xmin;ymin;xmax;ymax;class",
    ),
    NearMiss(
        "COCO-Stuff",
        lambda tree: next((file for file in tree.ending(".png") if STUFF.search(str(tree.root / file))), None),
        "put its label images into masks/train and masks/val, COCO's images into images/train and images/val, and the "
        "names of its classes into classes.txt, a line for each number from 0",
    ),
    NearMiss(
        "Hugging Face's image folders",
        lambda tree: next((file for file in tree.files if file.endswith(("metadata.jsonl", "metadata.csv"))), None),
        f"write a line for each box to a .csv with the header {CSV}",
    ),
    NearMiss("the full ADE20K", _suffix("_seg.png"), "take its benchmark of 150 classes, ADEChallengeData2016.zip"),
)
