"""`detseg check`: statistics and errors of a data set, and a repaired copy."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from joblib import cpu_count
from jsonargparse import ArgumentParser

from detseg.check.checking import check_dataset
from detseg.check.label_fixes import apply_label_fixes
from detseg.check.page import render_page
from detseg.check.repair import CHANGES_FILE, repair
from detseg.check.statistics import box_statistics
from detseg.check.summary import format_report, to_json
from detseg.cli import _help
from detseg.cli._console import printable
from detseg.cli._options import with_options
from detseg.cli._parser import instantiate, make_parser, parse, require_minimum
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.formats.base import DatasetFormat
from detseg.data.formats.format_detection import detect_any
from detseg.errors import ConfigError
from detseg.folders import check_writable, make_folder, writing
from detseg.progress import progress

log = logging.getLogger(__name__)


def run(arguments: Sequence[str]) -> None:
    """Check a data set; the exit status is 1 for warnings, 2 for errors."""
    parser = _parser()
    options = parse(parser, arguments)
    require_minimum(options, jobs=1, side=1)
    check_writable("--html", options.html)
    root = options.folder
    source = detect_any(root, instantiate(parser, options).format)
    if options.label_errors and not options.fix:
        raise ConfigError(f"--label_errors {options.label_errors}: add --fix FOLDER for the corrected copy")
    if options.fix:
        make_folder("--fix", options.fix, root)
    result = check_dataset(
        source, options.decode, options.jobs, lambda count: progress(0, count, f"check {root}"), options.duplicates
    )
    issues = [issue._replace(message=with_options(issue.message, "check")) for issue in result.issues]
    result = replace(result, issues=issues)
    with_boxes = {
        split: annotations
        for split, annotations in result.splits.items()
        if isinstance(annotations, DetectionAnnotations)
    }
    statistics = box_statistics(with_boxes, options.side)
    if options.json:
        print(json.dumps(to_json(result, statistics, options.side), indent=2))
    else:
        print(printable(format_report(result, statistics, options.side, options.all)))
    if options.html:
        page = render_page(result, statistics, options.side)
        options.html.write_text(page, encoding="utf-8", errors="backslashreplace")
        log.info("page: %s", options.html)
    if options.fix:
        result, corrected = apply_label_fixes(result, options.label_errors) if options.label_errors else (result, [])
        count = sum(map(len, result.splits.values()))
        with writing("--fix", options.fix), progress(0, count, f"write {options.fix}") as advance:
            changes = repair(result, options.fix, advance, corrected)
        log.info("%s: a repaired copy; %d changes, listed in %s", options.fix, len(changes), options.fix / CHANGES_FILE)
    if result.status:
        raise SystemExit(result.status)


def _parser() -> ArgumentParser:
    parser = make_parser("check", _help.CHECK, _help.CHECK_DESCRIPTION)
    parser.add_argument("folder", type=Path, help="A data set in any supported format.")
    options: dict[str, dict[str, Any]] = {
        "format": {"type": str | DatasetFormat, "default": "auto"},
        "jobs": {"type": int, "default": cpu_count()},
        "side": {"type": int, "default": 800},
        **{name: {"type": Path | None} for name in ("fix", "html", "duplicates", "label_errors")},
        **{name: {"action": "store_true"} for name in ("decode", "all", "json")},
    }
    for name, text in _help.CHECK_OPTIONS.items():
        parser.add_argument(f"--{name}", help=text, **options[name])
    return parser
