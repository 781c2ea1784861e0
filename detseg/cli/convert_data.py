"""`detseg convert-data`: data sets of boxes and masks into COCO, VOC or YOLO."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from detseg.cli._parser import make_parser, parse
from detseg.data.formats.conversion import convert
from detseg.data.formats.discovery import FINDERS, find_source
from detseg.errors import ConfigError
from detseg.folders import make_folder, writing


def run(arguments: Sequence[str]) -> None:
    """Write a data set in another format, and print the labels that the format cannot represent."""
    parser = make_parser("convert-data", "FOLDER --to COCO|VOC|YOLO --out FOLDER [--masks none] [--copy true]")
    parser.add_argument("folder", type=Path, help="The data set, in any format that is known.")
    parser.add_argument("--to", type=Literal["COCO", "VOC", "YOLO"], required=True, help="The format to write.")
    parser.add_argument("--out", type=Path, required=True, help="Folder to write; nothing may be in it.")
    parser.add_argument("--masks", type=Literal["any", "none"], default="any", help="Those there are, or boxes alone.")
    parser.add_argument("--copy", type=bool, default=False, help="Copy images; by default they are hard links.")
    parser.add_argument("--format", type=str | None, help="What the folder is, where it holds labels in several.")
    parser.add_argument("--labels", type=str | None, help="Which of several folders of YOLO labels.")
    parser.add_argument("--names", type=str | None, help="The file with the names of YOLO's classes.")
    options = parse(parser, arguments)
    if options.format not in (None, *FINDERS):
        raise ConfigError(f"--format {options.format}: there is {', '.join(FINDERS)}")
    source = find_source(options.folder, options.format, options.labels, options.names, options.masks)
    make_folder("--out", options.out, options.folder)
    with writing("--out", options.out):
        losses = convert(source, options.to, options.out, masks=options.masks != "none", copy=options.copy)
    for what, count in losses.items():
        if count:
            print(f"{options.to} cannot hold it: {count} {what}")
    print(f"written: {options.out}; to train with it: --data {options.out}")
