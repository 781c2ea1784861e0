"""Check and unpack Cityscapes, which you must download yourself: it asks for a name and a promise.

    python datasets/prepare_cityscapes.py --archives ~/Downloads [--root datasets/cityscapes]

1. Register at https://www.cityscapes-dataset.com/register/ (for research; the licence forbids to pass images on).
2. Download gtFine_trainvaltest.zip (241 MB) and leftImg8bit_trainvaltest.zip (11 GB), on the page, or with
   `pip install cityscapesscripts` and `csDownload gtFine_trainvaltest.zip leftImg8bit_trainvaltest.zip`.
3. Run this. The archives stay where they are. The SHA-256 sums are those in torchvision's prototype of this data set.
"""

from __future__ import annotations

import sys
from pathlib import Path

from downloads import Archive, Stop, check, files, not_unpacked, options_of, report, unpack

ARCHIVES = [
    Archive(
        "gtFine_trainvaltest.zip",
        files("gtFine", 3_475, "[tv][ra][al]*/*/*_gtFine_labelIds.png"),
        checksum="sha256:40461a50097844f400fef147ecaf58b18fd99e14e4917fb7c3bf9c0d87d95884",
    ),
    Archive(
        "leftImg8bit_trainvaltest.zip",
        files("leftImg8bit", 3_475, "[tv][ra][al]*/*/*_leftImg8bit.png"),
        checksum="sha256:3ccff9ac1fa1d80a6a064407e589d747ed0657aac7dc495a4403ae1235a37525",
    ),
]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = options_of(__doc__, "cityscapes")
    parser.add_argument("--archives", type=Path, default=Path(), help="folder of the archives that you downloaded")
    options = parser.parse_args(arguments)
    return report(lambda: install(options.root, options.archives), f"Cityscapes is in {options.root}")


def install(root: Path, folder: Path) -> None:
    """Check and unpack the archives whose content is not there yet."""
    root.mkdir(parents=True, exist_ok=True)
    missing = not_unpacked(root, ARCHIVES)
    for archive in missing:
        if not (folder / archive.name).is_file():
            raise Stop(f"{folder / archive.name}: there is no such file. {__doc__}")
    for archive in missing:
        check(folder / archive.name, archive.size, archive.checksum)
        unpack(folder / archive.name, root)
        if lack := archive.lacks(root):
            raise Stop(f"{folder / archive.name}: it does not hold {lack}; download it again")


if __name__ == "__main__":
    sys.exit(main())
