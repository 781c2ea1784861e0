"""Download Pascal VOC 2007 and 2012 (3 GB, and as much again to unpack them), and SBD's labels of more images (1.4 GB).

    python datasets/prepare_voc.py [--root datasets] [--years 2007] [--sbd] [--keep]

The images and labels come to ROOT/VOCdevkit/VOC2007 and VOC2012, SBD to ROOT/benchmark_RELEASE/dataset. It goes on
where it was interrupted, and leaves alone what is already there. The MD5 sums are those that torchvision checks; the
labels of the test images of 2012 are not public.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from downloads import Archive, download_options_of, files, prepare, report

SOURCE = "http://host.robots.ox.ac.uk/pascal/VOC"
BERKELEY = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours"


def listed(year: str, name: str) -> Callable[[Path], str]:
    """What ``Archive.lacks`` is for the images of a list."""

    def lacks(root: Path) -> str:
        folder = root / "VOCdevkit" / f"VOC{year}"
        file = folder / "ImageSets" / "Main" / f"{name}.txt"
        stems = file.read_text().split() if file.is_file() else []
        there = stems and all((folder / "JPEGImages" / f"{stem}.jpg").is_file() for stem in stems)
        return "" if there else f"the images of the list {name} of VOC {year}"

    return lacks


ARCHIVES = {
    "2007": [
        Archive(
            f"{SOURCE}/voc2007/VOCtrainval_06-Nov-2007.tar",
            listed("2007", "trainval"),
            460_032_000,
            "md5:c52e279531787c972589f7e41ab4ae64",
        ),
        Archive(
            f"{SOURCE}/voc2007/VOCtest_06-Nov-2007.tar",
            listed("2007", "test"),
            451_020_800,
            "md5:b6e924de25625d8de591ea690078ad9f",
        ),
    ],
    "2012": [
        Archive(
            f"{SOURCE}/voc2012/VOCtrainval_11-May-2012.tar",
            listed("2012", "trainval"),
            1_999_639_040,
            "md5:6cd6e144f989b92b3379bac3b3de84fd",
        )
    ],
    "sbd": [
        Archive(
            f"{BERKELEY}/benchmark.tgz",
            files("benchmark_RELEASE/dataset/cls", 11_355),
            1_419_539_633,
            "md5:82b4d87ceb2ed10f6038a1cba92111cb",
        )
    ],
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = download_options_of(__doc__, ".")
    parser.add_argument("--years", nargs="+", choices=("2007", "2012"), default=["2007", "2012"], help="which to get")
    parser.add_argument("--sbd", action="store_true", help="get SBD's labels too")
    parser.add_argument("--source", help="address of a mirror that has the archives in one folder")
    options = parser.parse_args(arguments)
    names = [*options.years, *(["sbd"] if options.sbd else [])]
    archives = [archive for name in names for archive in ARCHIVES[name]]
    done = f"VOC is in {options.root / 'VOCdevkit'}"
    return report(lambda: prepare(options.root, archives, options.keep, options.source), done)


if __name__ == "__main__":
    sys.exit(main())
