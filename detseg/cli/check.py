"""`detseg check`: statistics and errors of a data set, and a repaired copy."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from detseg.check.checking import check as check_source
from detseg.check.figures import figures
from detseg.check.page import page
from detseg.check.repair import CHANGES, repair
from detseg.check.summary import text, values
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
    checked = check_source(source, options.decode, options.jobs, lambda count: progress(0, count, f"check {root}"))
    boxes = {split: part for split, part in checked.parts.items() if isinstance(part, DetectionAnnotations)}
    measured = figures(boxes, options.side)
    if options.json:
        print(json.dumps(values(checked, measured, options.side), indent=2))
    else:
        report = text(checked, measured, options.side, options.all)
        print(report.encode("utf-8", "backslashreplace").decode())  # file names may not be UTF-8
    if options.html:
        options.html.write_text(page(checked, measured, options.side), encoding="utf-8", errors="backslashreplace")
        log.info("page: %s", options.html)
    if options.fix:
        count = sum(map(len, checked.parts.values()))
        with writing("--fix", options.fix), progress(0, count, f"write {options.fix}") as advance:
            changes = repair(checked, options.fix, advance)
        log.info("%s: a repaired copy; %d changes, listed in %s", options.fix, len(changes), options.fix / CHANGES)
    if checked.status:
        raise SystemExit(checked.status)


def _parser() -> ArgumentParser:
    parser = make_parser(
        "check",
        "FOLDER [--decode] [--all] [--json] [--fix FOLDER] [--html FILE.html]",
        "Read all labels and look at every image. Exit status: 0 clean, 1 warnings, 2 errors.",
    )
    parser.add_argument("folder", type=Path, help="A data set in any format that is known.")
    parser.add_argument("--format", type=str | DatasetFormat, default="auto", help="The format of the folder.")
    parser.add_argument("--decode", action="store_true", help="Decode every image, and not only read its head.")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="Processes that look at images.")
    parser.add_argument("--side", type=int, default=800, help="Short edge of the images, for how well anchors fit.")
    parser.add_argument("--all", action="store_true", help="List all faults and classes, and not only the first.")
    parser.add_argument("--fix", type=Path | None, help="Write a repaired copy to this new folder.")
    parser.add_argument("--html", type=Path | None, help="Write a page with charts and pictures to this file.")
    parser.add_argument("--json", action="store_true", help="Print values for programs instead.")
    return parser
