"""Repeat the experiment that residual learning began with: do deeper networks fit the training set better?

    python tools/degradation.py [--seeds 0 1 2] [--SETTING VALUE ...]

Trains the four networks of ResNet's figure 4, plain and residual, 18 and 34 layers, by configs/degradation_*.yaml, on
generated images. Prints the error on the training images, and draws it for every epoch. Other
settings go to each training, such as ``--trainer.max_epochs 20``. Finished trainings are not repeated.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from pathlib import Path

from PIL import Image

from detseg import cli
from detseg.analysis.charts import Line, line_chart

NETWORKS = ("plain18", "plain34", "resnet18", "resnet34")


def train(network: str, seed: int, settings: list[str]) -> Path:
    """Train ``network``, unless that has been done; return the folder of its run."""
    folder = Path("runs") / f"degradation_{network}_seed{seed}"
    if folder.exists() and not (folder / "last.ckpt").exists():
        sys.exit(f"error: {folder} was left by a training that ended before its first checkpoint: remove it")
    if not (folder / "done").exists():
        config = ["--config", f"degradation_{network}.yaml", "--name", folder.name, "--seed_everything", str(seed)]
        cli.main(["train", *config, *settings, *(["--resume", "last"] if (folder / "last.ckpt").exists() else [])])
        (folder / "done").touch()
    return folder


def errors(folder: Path) -> dict[int, float]:
    """Read the error on the training images after each epoch that ended with a validation, counted from 1."""
    by_epoch: dict[int, float] = {}  # a resumed training has written several files
    for file in sorted(folder.glob("metrics*.csv"), key=lambda file: file.stat().st_mtime):
        with file.open() as lines:
            by_epoch |= {
                int(row["epoch"]) + 1: 1 - float(row["val/top1"]) for row in csv.DictReader(lines) if row["val/top1"]
            }
    return dict(sorted(by_epoch.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("degradation.png"), help="the chart")
    options, settings = parser.parse_known_args()
    folders = {(network, seed): train(network, seed, settings) for seed in options.seeds for network in NETWORKS}
    lines, places = [], []
    for network in NETWORKS:
        runs = [errors(folders[network, seed]) for seed in options.seeds]
        places = [str(epoch) for epoch in runs[0]]
        epochs = [*zip(*(run.values() for run in runs), strict=True)]
        spread = [(max(epoch) - min(epoch)) / 2 for epoch in epochs]
        lines.append(Line(network, [*map(statistics.mean, epochs)], spread, dashed=network.startswith("plain")))
    mean = f", mean of {len(options.seeds)} runs" if len(options.seeds) > 1 else ""
    chart = line_chart(
        f"Error on the training images{mean}",
        places,
        lines,
        x_label="epoch",
        y_label="error, %",
        size=(900, 520),
    )
    Image.fromarray(chart).save(options.out)
    print(f"{'network':<10} training error after the last epoch, by seed, and mean")
    for line in lines:
        last = [100 * [*errors(folders[line.name, seed]).values()][-1] for seed in options.seeds]
        print(f"{line.name:<10} {'  '.join(f'{error:5.1f}' for error in [*last, statistics.mean(last)])}")
    print(f"curves: {options.out}")


if __name__ == "__main__":
    main()
