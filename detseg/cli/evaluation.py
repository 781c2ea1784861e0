"""`detseg evaluate`: every figure of a checkpoint on a data set."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, Trainer

from detseg import checkpoint
from detseg.cli.configs import find_configs, for_other_data
from detseg.cli.faults import PARSER, cause, parse
from detseg.data import DetectionData
from detseg.metrics import coco_results
from detseg.recipe import build
from detseg.tasks import Detection, ProgressBar
from detseg.tasks.figures import figures_table, write_figures


def evaluate(arguments: Sequence[str]) -> None:
    """Measure the checkpoint that ``arguments`` name on its own data or another, matching the classes by name."""
    arguments = for_other_data(find_configs(arguments))
    parser = _parser()
    if module := _value(arguments, "--module"):
        importlib.import_module(module)
    if name := _value(arguments, "--checkpoint"):
        task = checkpoint.load(name)
        parser.set_defaults(data=_settings(task.data_recipe))
    options = parse(parser, arguments)
    try:
        data = parser.instantiate_classes(options).data
    except ValueError as error:  # what jsonargparse makes of any error in a constructor
        raise cause(error) from error
    data.use_classes(task.classes)

    callbacks: list[Callback] = [ProgressBar()] if sys.stdout.isatty() else []
    trainer = Trainer(
        devices=options.devices,
        precision=options.precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=bool(callbacks),
        enable_model_summary=False,
        callbacks=callbacks,
    )
    trainer.validate(task, data, verbose=False)
    if trainer.is_global_zero:
        _report(task, data, options.out, options.metrics)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="detseg evaluate",
        usage="detseg evaluate --checkpoint FILE [--data NAME.yaml|CLASS] [--out FILE.json] [--metrics FILE.json]",
        **PARSER,
    )
    parser.add_argument("--checkpoint", type=str, required=True, help="What a training or `detseg convert` wrote.")
    parser.add_subclass_arguments(DetectionData, "data", help="By default that of the checkpoint.")
    parser.add_argument(
        "--module", type=str | None, help="A module with classes of your own that the checkpoint needs."
    )
    parser.add_argument("--devices", type=int, default=1, help="GPUs, or processes on a CPU.")
    parser.add_argument("--precision", type=str, default="32-true", help="Such as bf16-mixed.")
    parser.add_argument("--out", type=Path | None, help="File for the detections, in COCO's result format.")
    parser.add_argument("--metrics", type=Path | None, help="File for every figure by name, as JSON.")
    return parser


def _value(arguments: Sequence[str], option: str) -> str | None:
    """What is given for an option, before anything is parsed."""
    for argument, following in zip(arguments, [*arguments[1:], None], strict=True):
        name, equals, value = argument.partition("=")
        if name == option:
            return value if equals else following
    return None


def _settings(recipe: Any) -> Any:
    """A recipe as the default of a parser's setting, so that parts of it can be given otherwise."""
    if isinstance(recipe, dict) and set(recipe) == {"class", "arguments"}:
        cls = type(build(recipe))  # not imported for its name: known already, or an error
        init_args = {name: _settings(value) for name, value in recipe["arguments"].items()}
        return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": init_args}
    return recipe


def _report(task: Detection, data: DetectionData, out: Path | None, metrics: Path | None) -> None:
    print(figures_table(task.figures))
    rest = [name for name in task.figures if not name.startswith(("AP", "AR_", "VOC")) and name != "images_per_second"]
    print("\nvalidation losses: " + ", ".join(f"{name} {task.figures[name]:.4f}" for name in rest))
    print(f"images per second: {task.figures['images_per_second']:.1f}")
    if metrics:
        write_figures(task.figures, metrics)
    if out and task.detections is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(coco_results(data.val_annotations, task.detections)) + "\n")
    for file in filter(None, (metrics, out)):
        print(f"written: {file}")
