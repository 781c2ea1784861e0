"""Run the commands of the lecture on synthetic shapes, with the trainings that they need, and print the time of each.

    python tools/lecture.py

The pictures are those of `make pictures`, written to ``build/lecture``. What draws none, and the experiments that take
longer, run in their smallest form. Finished trainings are not repeated.
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

OUT = Path("build/lecture")
FEW = WORK / "few"
VOC = str(FEW / "voc")
TOOLS = Path(__file__).parent.resolve()

COMMANDS = {
    "ensemble": ["evaluate", "--checkpoint", CLASSIFIER, BAGNET],
    "propose": ["propose", "--data", "VOC", "--data.root", VOC, "--out", str(OUT / "proposals")],
    "resnet1002": ["train", "--config", "resnet1002_shapes.yaml", "--trainer.max_epochs", "1"],
}
SCRIPTS = {
    "degradation": ["degradation.py", "--trainer.max_epochs", "3"],
    "history": [
        *("history.py", "--data.root", str(Path(VOC).resolve()), "--images", "2", "--trainer.max_epochs", "1"),
        *("--model.backbone.weights=null", "--data.num_workers", "0"),
    ],
}


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    Shapes(str(FEW), train=10, val=4).prepare()
    steps = {f"train {Path(file).parent.name}": (prepare, [training]) for file, training in TRAININGS.items()}
    steps |= {f"draw {name}": (draw, name, OUT) for name in (*PICTURES, *FOLDERS)}
    steps |= {name: (cli.main, arguments) for name, arguments in COMMANDS.items()}
    steps |= {f"tools/{arguments[0]}": (run_script, arguments) for arguments in SCRIPTS.values()}
    seconds = {}
    for name, (step, *arguments) in steps.items():
        start = time.perf_counter()
        step(*arguments)
        seconds[name] = time.perf_counter() - start
    for name, value in seconds.items():
        print(f"{name:<28} {value:7.1f} s")
    print(f"{'sum':<28} {sum(seconds.values()) / 60:7.1f} minutes")


def run_script(arguments: list[str]) -> None:
    """Run an experiment in ``OUT``, apart from the runs of its full length."""
    environment = {**os.environ, "PYTHONPATH": str(TOOLS.parent)}
    subprocess.run([sys.executable, str(TOOLS / arguments[0]), *arguments[1:]], cwd=OUT, env=environment, check=True)


if __name__ == "__main__":
    main()
