"""Files of results in other formats: COCO's results, Parquet, and data sets whose labels are predictions."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from detseg.data.annotations.builder import Builder
from detseg.data.annotations.issues import FailFastSummary
from detseg.data.formats.base import WHOLE
from detseg.data.formats.conversion import write_splits
from detseg.data.formats.format_detection import find_formats
from detseg.errors import ConfigError, DataError
from detseg.inference.result_files import RESULTS, Entry, read_lines, read_settings
from detseg.inference.sources import import_pyarrow
from detseg.ops.rle import area, from_string

DATA_SETS = ("COCO", "YOLO", "VOC", "LabelMe")
FORMATS = ("coco_results", "parquet", *DATA_SETS)
ROWS = 1000  # images that are held in memory


def check_format(folder: Path, name: str, task: str, files: Iterable[str]) -> None:
    """Raise ConfigError if results of a task on these images cannot be written to a folder in one of ``FORMATS``."""
    if name != "parquet" and task != "detection":
        raise ConfigError(f"as {name}: holds detections, and this model is for {task}; choose parquet")
    if name == "parquet":
        import_pyarrow("as parquet")
    elif name in DATA_SETS and (address := next((file for file in files if "://" in file), None)):
        raise ConfigError(f"as {name}: {address} is no file on this disk, which the data set could link to")
    elif name in DATA_SETS and (folder / name).exists():
        raise ConfigError(f"as {name}: {folder / name} is there already; delete it, or name another folder")


def write_results(folder: Path, name: str, threshold: float = 0) -> tuple[Path, Mapping[str, int]]:
    """Write the complete results in a folder in a format of ``FORMATS``, without scores below ``threshold``.

    Returns the file or folder, and counts of labels that the format cannot represent. Raises ConfigError for a format
    that does not fit, DataError for a data set that is there already.
    """
    settings = read_settings(folder)
    check_format(folder, name, settings["task"], (entry["file"] for entry in _entries(folder, 0)))
    if name == "parquet":
        return _write_parquet(folder, threshold), {}
    ids = settings["category_ids"] or range(1, len(settings["classes"]) + 1)
    category_ids = dict(zip(settings["classes"], ids, strict=True))
    if name == "coco_results":
        return _write_coco_results(folder, threshold, category_ids), {}
    return _write_data_set(folder, name, threshold, category_ids)


def _entries(folder: Path, threshold: float) -> Iterator[Entry]:
    """Yield the results of all images, without the objects below ``threshold``."""
    for _, entry in read_lines(folder / RESULTS):
        if "boxes" in entry and threshold:
            kept = [i for i, score in enumerate(entry["scores"]) if score >= threshold]
            for key in {"classes", "scores", "boxes", "masks"} & {*entry}:
                entry[key] = [entry[key][i] for i in kept]
        yield entry


def _write_coco_results(folder: Path, threshold: float, category_ids: Mapping[str, int]) -> Path:
    """Write COCO's results; images have the number in their name, as COCO's, or if one has none, their position."""
    path = folder / "results.json"
    numbered = all(Path(entry["file"]).stem.isdecimal() for entry in _entries(folder, 0))
    separator = "["
    with path.open("w", encoding="utf-8") as out:
        for position, entry in enumerate(_entries(folder, threshold), start=1):
            image_id = int(Path(entry["file"]).stem) if numbered else position
            masks = entry.get("masks") or [None] * len(entry.get("boxes", ()))
            columns = (entry.get(key, ()) for key in ("boxes", "classes", "scores"))
            for (x1, y1, x2, y2), label, score, mask in zip(*columns, masks, strict=True):
                box = [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]
                one = {"image_id": image_id, "file_name": entry["file"], "category_id": category_ids[label]}
                one |= {"bbox": box, "score": score} | ({} if mask is None else {"segmentation": mask})
                out.write(f"{separator}\n{json.dumps(one)}")
                separator = ","
        out.write("[]\n" if separator == "[" else "\n]\n")
    return path


def arrow_schema(pyarrow: Any) -> Any:
    """The columns of results in Arrow, of any task; those of other tasks are null."""
    text, number = pyarrow.string(), pyarrow.float32()
    return pyarrow.schema(
        {
            "file": text,
            "height": pyarrow.int32(),
            "width": pyarrow.int32(),
            "classes": pyarrow.list_(text),
            "scores": pyarrow.list_(number),
            "boxes": pyarrow.list_(pyarrow.list_(number)),
            "masks": pyarrow.list_(text),  # counts of COCO's compressed RLE
            "class_fractions": pyarrow.map_(text, number),
            "labels": text,  # file, as the next three
            "overlay": text,
            "picture": text,
            "instances": text,
            "error": text,
        }
    )


def to_arrow(entries: Iterable[Entry]) -> Any:
    """Convert entries of images to an Arrow table with the columns of ``arrow_schema``."""
    pyarrow = import_pyarrow("Arrow tables")
    rows = []
    for entry in entries:
        height, width = entry.get("size", (None, None))
        masks = [mask["counts"] for mask in entry["masks"]] if "masks" in entry else None
        fractions = [*entry["class_fractions"].items()] if "class_fractions" in entry else None
        rows.append({**entry, "height": height, "width": width, "masks": masks, "class_fractions": fractions})
    return pyarrow.Table.from_pylist(rows, schema=arrow_schema(pyarrow))


def _write_parquet(folder: Path, threshold: float) -> Path:
    pyarrow = import_pyarrow("as parquet")
    path = folder / "predictions.parquet"
    entries = _entries(folder, threshold)
    with pyarrow.parquet.ParquetWriter(path, arrow_schema(pyarrow)) as writer:
        while rows := [*islice(entries, ROWS)]:
            writer.write_table(to_arrow(rows))
    return path


def _write_data_set(
    folder: Path, name: str, threshold: float, category_ids: Mapping[str, int]
) -> tuple[Path, Mapping[str, int]]:
    """Write a data set of the images that could be read, whose objects are the predictions."""
    folders = {os.path.dirname(os.path.abspath(entry["file"])) for entry in _entries(folder, 0)}
    if not folders:
        raise DataError(f"{folder / RESULTS}: holds no image")
    root = Path(os.path.commonpath(folders))
    issues = FailFastSummary()
    builder = Builder(folder / RESULTS, root, issues)
    for entry in _entries(folder, threshold):
        if "error" not in entry:
            image = builder.image(os.path.relpath(os.path.abspath(entry["file"]), root), tuple(entry["size"]))
            masks = entry.get("masks") or [None] * len(entry["boxes"])
            for box, label, mask in zip(entry["boxes"], entry["classes"], masks, strict=True):
                counts = mask["counts"].encode() if mask else b""
                has_pixels = counts and area(from_string(counts)) > 0
                builder.add(image, label, tuple(box), mask=counts if has_pixels else None)
    table = builder.annotations(category_ids)
    issues.log(folder / RESULTS)
    (to,) = find_formats(name, "detection")
    report = write_splits({WHOLE: table}, to, folder / name, has_category_ids=True)
    return folder / name, {what: count for what, count in report.losses.items() if count}
