"""`detseg check`: statistics and errors of a data set, and a repaired copy."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from detseg.check.checking import check_dataset
from detseg.check.page import render_page
from detseg.check.repair import CHANGES_FILE, repair
from detseg.check.statistics import box_statistics
from detseg.check.summary import format_report, to_json
from detseg.cli._console import check_writable
from detseg.cli._parser import make_parser, parse
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.formats.base import DatasetFormat
from detseg.data.formats.format_detection import detect_any
from detseg.errors import ConfigError
from detseg.folders import make_folder, writing
from detseg.progress import progress

log = logging.getLogger(__name__)


def run(arguments: Sequence[str]) -> None:
    """Check a data set; the exit status is 1 for warnings, 2 for errors."""
    parser = _parser()
    options = parse(parser, arguments)
    for name in ("jobs", "side"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name} {getattr(options, name)}: must be at least 1")
    check_writable("--html", options.html)
    root = options.folder
    source = detect_any(root, parser.instantiate_classes(options).format)
    if options.fix:
        make_folder("--fix", options.fix, root)
    result = check_dataset(source, options.decode, options.jobs, lambda count: progress(0, count, f"check {root}"))
    with_boxes = {
        split: annotations
        for split, annotations in result.splits.items()
        if isinstance(annotations, DetectionAnnotations)
    }
    statistics = box_statistics(with_boxes, options.side)
    if options.json:
        print(json.dumps(to_json(result, statistics, options.side), indent=2))
    else:
        report = format_report(result, statistics, options.side, options.all)
        print(report.encode("utf-8", "backslashreplace").decode())  # file names may not be UTF-8
    if options.html:
        page = render_page(result, statistics, options.side)
        options.html.write_text(page, encoding="utf-8", errors="backslashreplace")
        log.info("page: %s", options.html)
    if options.fix:
        count = sum(map(len, result.splits.values()))
        with writing("--fix", options.fix), progress(0, count, f"write {options.fix}") as advance:
            changes = repair(result, options.fix, advance)
        log.info("%s: a repaired copy; %d changes, listed in %s", options.fix, len(changes), options.fix / CHANGES_FILE)
    if result.status:
        raise SystemExit(result.status)


def _parser() -> ArgumentParser:
    parser = make_parser(
        "check",
        "FOLDER [--decode] [--all] [--json] [--fix FOLDER] [--html FILE.html]",
        "Read all labels and the header of every image. Exit status: 0 clean, 1 warnings, 2 errors.",
    )
    parser.add_argument("folder", type=Path, help="A data set in any supported format.")
    parser.add_argument("--format", type=str | DatasetFormat, default="auto", help="The format of the folder.")
    parser.add_argument("--decode", action="store_true", help="Decode every image instead of reading only its header.")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="Processes that read images.")
    parser.add_argument("--side", type=int, default=800, help="Short edge of the images, for the overlap with anchors.")
    parser.add_argument("--all", action="store_true", help="List all issues and classes instead of the first ones.")
    parser.add_argument("--fix", type=Path | None, help="Write a repaired copy to this new folder.")
    parser.add_argument("--html", type=Path | None, help="Write a page with charts and pictures to this file.")
    parser.add_argument("--json", action="store_true", help="Print JSON instead of text.")
    return parser
