"""Run the commands of the lecture on synthetic shapes, in their smallest form, and print the time of each.

    python tools/lecture.py

The pictures are those of `make pictures`, from networks that are trained for one epoch; everything is written to
``build/lecture``. Finished trainings are not repeated.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from pictures import BAGNET, CLASSIFIER, FOLDERS, PICTURES, TRAININGS, WORK, draw, prepare

from detseg import cli
from detseg.data import Shapes

TOOLS = Path(__file__).parent.resolve()
OUT = Path("build/lecture")
FEW = WORK / "few"
ONCE = ["--trainer.max_epochs", "1"]

COMMANDS = {  # without a picture
    "ensemble": ["evaluate", "--checkpoint", CLASSIFIER, BAGNET],
    "propose": ["propose", "--data", "VOC", "--data.root", str(FEW / "voc"), "--out", "proposals/few"],
    "resnet1002": ["train", "--config", "resnet1002_shapes.yaml", *ONCE],
}
SCRIPTS = [
    ["degradation.py", *ONCE, "--trainer.check_val_every_n_epoch", "1"],
    ["history.py", *ONCE, "--data.root", str(FEW / "voc"), "--images", "2", "--model.backbone.weights=null"],
]


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    os.chdir(OUT)
    pictures = Path("pictures")
    pictures.mkdir(exist_ok=True)
    for training in TRAININGS.values():
        training += ONCE
    Shapes(str(FEW), train=10, val=4).prepare()
    steps = {f"train {Path(file).parent.name}": (prepare, [training]) for file, training in TRAININGS.items()}
    steps |= {f"draw {name}": (draw, name, pictures) for name in (*PICTURES, *FOLDERS)}
    steps |= {name: (cli.main, arguments) for name, arguments in COMMANDS.items()}
    steps |= {f"tools/{script}": (run_script, script, arguments) for script, *arguments in SCRIPTS}
    seconds = {}
    for name, (step, *arguments) in steps.items():
        start = time.perf_counter()
        step(*arguments)
        seconds[name] = time.perf_counter() - start
    for name, value in seconds.items():
        print(f"{name:<28} {value:7.1f} s")
    print(f"{'sum':<28} {sum(seconds.values()) / 60:7.1f} minutes")


def run_script(script: str, arguments: list[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(TOOLS.parent)}
    subprocess.run([sys.executable, str(TOOLS / script), *arguments], env=environment, check=True)


if __name__ == "__main__":
    main()
