"""Compare the AP that detseg, torchvision and variants of detseg reach from equal weights by one schedule.

    python tools/compare.py my/folder --weights mobilenet_v2.pth --out results.json
    python tools/compare.py my/folder --masks --weights mobilenet_v2.pth --epochs 30 --out results.json

Every arm starts from the same weights and sees the same batches in the same order, seed by seed, and is measured by the
same COCO evaluation; ``comparison/arms.py`` lists the arms. The table gives the difference of each to ``--reference``
over pairs of the same seed, its standard error and Student's t interval. Choose the seeds before you look: adding some
until a difference shows would find one where there is none. ``--out`` is written after each run; the same command
continues it, and with other settings refuses to.

All networks are MobileNetV2 with a feature pyramid, from trained weights: from random ones our BatchNorms would be
trained and torchvision's, which are frozen, not.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from pathlib import Path

import torch
from comparison.arms import ARMS, MASK_ARMS, REFERENCE
from comparison.results import Results, ResultsError
from comparison.training import run

from detseg.errors import DetsegError

NOT_SETTINGS = ("root", "weights", "out", "arms", "reference", "report")  # of which runs stay comparable


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--weights", required=True, help="MobileNetV2's, a file")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    parser.add_argument("--masks", action="store_true", help="compare Mask R-CNN")
    parser.add_argument("--arms", nargs="+", choices=MASK_ARMS, help="by default all of the model")
    parser.add_argument("--reference", choices=MASK_ARMS, default=REFERENCE, help="arm that the others are compared to")
    parser.add_argument("--report", action="store_true", help="print the table of the runs so far, and train nothing")
    parser.add_argument("--format", help="of the folder, where it holds labels in more than one")
    parser.add_argument("--classes", nargs="+", default=[], help="take the images that show these, and no other class")
    parser.add_argument("--split", choices=["train", "val", "test"], help="to measure on")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--size", type=int, default=128, help="short edge of the images in pixels")
    parser.add_argument("--regions", type=int, default=32, help="that the heads learn from in an image")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    known = MASK_ARMS if options.masks else ARMS
    options.arms = options.arms or list(known)
    if unknown := [arm for arm in options.arms if arm not in known]:
        parser.error(f"{', '.join(unknown)}: is an arm of Mask R-CNN alone; add --masks")
    return options


def main() -> None:
    options = parse()
    settings = {name: value for name, value in vars(options).items() if name not in NOT_SETTINGS}
    settings |= {"data": options.root.name, "weights": Path(options.weights).name}
    try:
        results = Results(options.out, settings)
    except ResultsError as error:
        sys.exit(str(error))
    torch.set_num_threads(options.threads)
    for name in ("lightning.pytorch", "detseg"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")  # each run would repeat those of the libraries
    metrics = ("AP", "AP50", "mask_AP", "mask_AP50") if options.masks else ("AP", "AP50")
    for seed in options.seeds if not options.report else ():
        for name in options.arms:
            if (name, seed) not in results.runs:
                try:
                    values = run(MASK_ARMS[name], seed, options)
                except (DetsegError, OSError) as error:
                    sys.exit(f"error: {error}")
                results.add(name, seed, values)
                shown = "  ".join(f"{metric} {values[metric]:.3f}" for metric in metrics)
                print(f"seed {seed}  {name:20} {shown}  {values['seconds']:.0f} s", flush=True)
    print(results.table(options.reference, metrics))


if __name__ == "__main__":
    main()
