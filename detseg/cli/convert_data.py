"""`detseg convert-data`: write a data set of boxes and masks in another format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from detseg.cli._parser import instantiate, make_parser, parse
from detseg.data.formats import FORMATS
from detseg.data.formats.base import DatasetFormat
from detseg.data.formats.conversion import convert
from detseg.data.formats.format_detection import detect_source, find_formats
from detseg.folders import make_folder, writing


def run(arguments: Sequence[str]) -> None:
    """Write a data set in another format, and print the labels that the format cannot represent."""
    writable = [format.name for format in FORMATS if format.can_write]
    usage = f"FOLDER --to {'|'.join(writable)} --out FOLDER [--masks none] [--copy true]"
    parser = make_parser("convert-data", usage)
    parser.add_argument("folder", type=Path, help="The data set, in any format that is known.")
    parser.add_argument("--to", type=Literal[tuple(writable)], required=True, help="The format to write.")
    parser.add_argument("--out", type=Path, required=True, help="Folder to write; nothing may be in it.")
    parser.add_argument("--masks", type=Literal["any", "none"], default="any", help="Those there are, or boxes alone.")
    parser.add_argument("--copy", type=bool, default=False, help="Copy images; by default they are hard links.")
    parser.add_argument("--format", type=str | DatasetFormat, default="auto", help="The format of the folder.")
    options = parse(parser, arguments)
    source = detect_source(options.folder, instantiate(parser, options).format)
    (to,) = find_formats(options.to, "detection")
    make_folder("--out", options.out, options.folder)
    with writing("--out", options.out):
        report = convert(source, to, options.out, masks=options.masks != "none", copy=options.copy)
    for what, count in report.losses.items():
        if count:
            print(f"{options.to} cannot hold it: {count} {what}")
    print(f"written: {options.out}; to train with it: --data {options.out}")
