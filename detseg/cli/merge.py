"""`detseg merge`: join the shards of a prediction, or write complete results in another format."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jsonargparse.typing import ClosedUnitInterval

from detseg.cli._parser import make_parser, parse
from detseg.errors import ConfigError
from detseg.folders import writing
from detseg.inference.result_files import RESULTS, SHARD_FILE, merge_shards
from detseg.inference.writers import FORMATS, write_results
from detseg.plural import counted

log = logging.getLogger(__name__)


def run(arguments: Sequence[str]) -> None:
    """Join the shards in a folder, if there are any, and write the results in other formats."""
    parser = make_parser("merge", f"FOLDER [--as {'|'.join(FORMATS)}] [--threshold 0.5]")
    parser.add_argument("folder", type=Path, help="The --out folder of `detseg predict --shard`.")
    parser.add_argument("--as", type=Literal[FORMATS] | None, help="Another format to write, into the same folder.")
    parser.add_argument("--threshold", type=ClosedUnitInterval, default=0, help="Lowest score in the other format.")
    options = parse(parser, arguments)
    folder = options.folder
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give the --out of `detseg predict`")
    name = options["as"]
    is_merged = (folder / RESULTS).exists() and not any(SHARD_FILE.fullmatch(path.name) for path in folder.iterdir())
    if not is_merged or not name:
        with writing("folder", folder):
            summary = merge_shards(folder)
        log.info("%s, %d of them with an error: %s", counted(summary.images, "image"), summary.failed, folder / RESULTS)
    if name:
        write_as(folder, name, options.threshold)


def write_as(folder: Path, name: str, threshold: float = 0) -> None:
    """Write complete results in another format, and log the labels that it cannot represent."""
    with writing("--as", folder):
        path, losses = write_results(folder, name, threshold)
    for description, count in losses.items():
        log.info("%s cannot hold it: %d %s", name, count, description)
    log.info("written: %s", path)
