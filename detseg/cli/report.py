"""`detseg report`: compare the reports of two or more runs on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detseg.cli._parser import make_parser, parse
from detseg.errors import ConfigError
from detseg.folders import check_writable
from detseg.report.comparison import read_report, report_file, write_comparison
from detseg.report.page import check_page


def run(arguments: Sequence[str]) -> None:
    """Write a page with the paired differences of runs, and the images that improved or got worse."""
    parser = make_parser("report", "RUN RUN [RUN ...] [--out FILE.html]")
    parser.add_argument("runs", type=Path, nargs="+", help="Folders of runs with report.json, or such files.")
    parser.add_argument("--out", type=Path, default=Path("comparison.html"), help="The page; default: comparison.html.")
    options = parse(parser, arguments)
    if len(options.runs) < 2:
        raise ConfigError(
            f"{options.runs[0]}: give two runs or more to compare; the page of one run is its report.html, which "
            "`detseg evaluate --report` writes"
        )
    check_page("--out", options.out, {str(path): report_file(path) for path in options.runs})
    check_writable("--out", options.out)
    reports = {str(path): read_report(path) for path in options.runs}
    if len(reports) < len(options.runs):
        raise ConfigError(f"{options.runs[0]}: is given more than once")
    compared = write_comparison(reports, options.out)
    for one in compared["differences"]:
        for row in one["metrics"]:
            print(
                f"{one['name']}: {row['metric']} {100 * row['difference']:+.1f} "
                f"({100 * row['low']:.1f} to {100 * row['high']:.1f})"
            )
    print(f"written: {options.out}")
