"""Download COCO 2017 (images and annotations: 20 GB, and as much again to unpack them) and lay it out.

    python datasets/prepare_coco.py [--root datasets/coco] [--splits val] [--keep]

It goes on where it was interrupted, and leaves alone what is already there. COCO publishes no checksums; the MD5 sums
are those that Paddle's and other programs check.
"""

from __future__ import annotations

import sys

from downloads import Archive, download_options_of, files, prepare, report

SOURCE = "http://images.cocodataset.org"
ARCHIVES = {
    "annotations": Archive(
        "annotations/annotations_trainval2017.zip",
        files("annotations", 6),
        252_907_541,
        "md5:f4bbac642086de4f52a3fdda2de5fa2c",
    ),
    "train": Archive(
        "zips/train2017.zip", files("train2017", 118_287), 19_336_861_798, "md5:cced6f7f71b7629ddf16f17bbcfab6b2"
    ),
    "val": Archive("zips/val2017.zip", files("val2017", 5_000), 815_585_330, "md5:442b8da7639aecaf257c1dceb8ba8c80"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = download_options_of(__doc__, "coco")
    parser.add_argument("--splits", nargs="+", choices=("train", "val"), default=["train", "val"], help="images to get")
    parser.add_argument("--source", default=SOURCE, help="address of a mirror")
    options = parser.parse_args(arguments)
    archives = [
        ARCHIVES[name]._replace(address=f"{options.source.rstrip('/')}/{ARCHIVES[name].address}")
        for name in ("annotations", *options.splits)
    ]
    return report(lambda: prepare(options.root, archives, options.keep), f"COCO is in {options.root}")


if __name__ == "__main__":
    sys.exit(main())
