"""Compare recipes for training on a small data set: one difference at a time from the configuration.

    python tools/ablation.py my/folder --out results.json --model.backbone.backbone.weights mobilenet_v2.pth

Every run is a ``detseg train`` of its own; options that are not listed here go to all of them. All have the same
epochs, so that an arm that costs time shows it in its seconds. The table gives paired differences to the configuration
as it is, as ``compare.py`` does, and ``--out`` continues likewise.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from comparison.results import Results, ResultsError

ADAMW = ["--task.optimizer.name", "adamw", "--task.lr", "0.0008"]  # of 16 images
COSINE = ["--task.schedule.name", "cosine", "--task.schedule.warmup_steps", "100"]
SLOWER = ["--task.optimizer.backbone_lr_factor", "0.25"]
EMA = ["--ema", "0.99"]  # of the 200 to 300 steps of a run
JITTER = [
    "--data.transforms",
    '[{"class_path": "LargeScaleJitter", "init_args": {"scale": [0.5, 1.5]}}, "RandomHorizontalFlip"]',
]
GIOU = ["--model.roi_heads.box_predictor", "comparison.giou.GIoUPredictor"]
ARMS = {
    "configuration": [],
    "cosine": COSINE,
    "adamw, cosine": [*ADAMW, *COSINE],
    "adamw, cosine, slower backbone": [*ADAMW, *COSINE, *SLOWER],
    "ema": EMA,
    "jitter": JITTER,
    "giou": GIOU,
    "adamw, cosine, slower backbone, ema, giou": [*ADAMW, *COSINE, *SLOWER, *EMA, *GIOU],
    "batch norm trained": ["--model.backbone.backbone.norm", "batch"],
}
METRICS = ("AP", "AP50", "AP75")


def run(arm: str, seed: int, options: argparse.Namespace, others: list[str]) -> dict[str, float]:
    """Train in a folder of its own; return the metrics after the last epoch and the seconds of the processor."""
    sizes = [
        "--data.transforms.Resize.size",
        str(options.size),
        "--data.transforms.Resize.max_size",
        str(2 * options.size),
    ]
    if arm == "jitter":
        sizes = [value.replace("Resize", "LargeScaleJitter") for value in sizes]
    command = [sys.executable, str(Path(__file__).with_name("train.py").resolve())]
    command += ["--config", options.config, "--data", str(options.root.resolve()), "--data.num_workers", "0", *others]
    command += ["--trainer.max_epochs", str(options.epochs), "--trainer.check_val_every_n_epoch", str(options.epochs)]
    command += ["--task.schedule.milestones", str([2 * options.epochs // 3, 11 * options.epochs // 12])]
    command += ["--seed_everything", str(seed), "--name", "run", "--logger", "csv", *ARMS[arm], *sizes]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{arm}, seed {seed}: {done.stderr.strip().splitlines()[-1]}")
        values = json.loads((Path(folder) / "runs" / "run" / "metrics.json").read_text(encoding="utf-8"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {name: round(values[name], 5) for name in METRICS} | {"seconds": round(seconds, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("root", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    parser.add_argument("--config", default="faster_rcnn_mobilenet_v2.yaml")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--size", type=int, default=224, help="short edge of the images in pixels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--report", action="store_true", help="print the table of the runs so far, and train nothing")
    options, others = parser.parse_known_args()
    settings = {name: getattr(options, name) for name in ("config", "epochs", "size", "seeds")}
    try:
        results = Results(options.out, settings | {"data": options.root.name, "options": others})
    except ResultsError as error:
        sys.exit(str(error))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent.resolve()), os.environ.get("PYTHONPATH", "")])
    for seed in options.seeds if not options.report else ():
        for arm in options.arms:
            if (arm, seed) not in results.runs:
                values = run(arm, seed, options, others)
                results.add(arm, seed, values)
                print(
                    f"seed {seed}  {arm:42} " + "  ".join(f"{name} {value:.3f}" for name, value in values.items()),
                    flush=True,
                )
    print(results.table("configuration", METRICS))


if __name__ == "__main__":
    main()
