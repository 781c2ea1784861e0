"""Download the Penn-Fudan database of pedestrians (54 MB): 170 images with a mask for each of them, written as COCO.

    python datasets/prepare_penn_fudan.py [--root datasets/penn_fudan] [--keep]

The images and masks come to ROOT/PennFudanPed as they are published, and in COCO's format to ROOT/coco, which is what
`--data ROOT/coco` reads. No checksum of the archive is published; its size is checked.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from downloads import Archive, Stop, download_options_of, files, prepare, report

SOURCE = "https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip"
ARCHIVES = [Archive(SOURCE, files("PennFudanPed/PedMasks", 170), 53_723_336)]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = download_options_of(__doc__, "penn_fudan")
    parser.add_argument("--source", help="address of a mirror's folder")
    options = parser.parse_args(arguments)

    def work() -> None:
        prepare(options.root, ARCHIVES, options.keep, options.source)
        write_coco(options.root / "PennFudanPed", options.root / "coco")

    return report(work, f"Penn-Fudan is in {options.root / 'coco'}")


def write_coco(root: Path, out: Path) -> None:
    """Write what the masks show in COCO's format, unless it is there: whole or not at all."""
    try:
        from detseg.data.formats.coco.detection import CocoFormat
        from detseg.data.formats.conversion import write_splits
        from detseg.data.formats.penn_fudan import read_penn_fudan
        from detseg.errors import DataError
    except ImportError:
        raise Stop("detseg is not installed: `pip install -e .` first") from None
    if (out / "annotations" / "instances.json").is_file():
        print(f"{out}: there already")
        return
    if out.exists():
        raise Stop(f"{out}: is there, but not as this script leaves it; remove it and run this again")
    part = out.with_name(f"{out.name}.part")
    if part.exists():
        shutil.rmtree(part)  # what was interrupted
    try:
        write_splits({"all": read_penn_fudan(root)}, CocoFormat(), part, has_category_ids=True)
    except DataError as error:
        raise Stop(str(error)) from None
    part.rename(out)


if __name__ == "__main__":
    sys.exit(main())
