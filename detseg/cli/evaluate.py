"""`detseg evaluate`: every figure of a checkpoint on a data set."""

from __future__ import annotations

import json
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union

from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, Trainer

from detseg import checkpoint
from detseg.callbacks import ProgressBar
from detseg.cli._configs import find_configs, for_other_data
from detseg.cli._console import check_writable, import_module
from detseg.cli._errors import PARSER, parse, root_cause
from detseg.cli._tta import add_tta_options, tta_config
from detseg.configurable import from_config
from detseg.data import DetectionDataModule, SegmentationDataModule
from detseg.errors import CheckpointError, ConfigError
from detseg.metrics import coco_results
from detseg.tasks import DetectionTask, SegmentationTask, Task
from detseg.tasks.figures import write_figures

# Types of settings whose values jsonargparse takes as they are; for any other it may import what a text names.
PLAIN = (
    *(str, int, float, bool, type(None), Path, Any, Ellipsis, Union, types.UnionType),
    *(list, tuple, dict, Sequence, Mapping),
)


def run(arguments: Sequence[str]) -> None:
    """Measure the checkpoint that ``arguments`` name on its own data or another, matching the classes by name."""
    arguments = find_configs(arguments)
    if module := _value(arguments, "--module"):
        import_module(module)
    name = _value(arguments, "--checkpoint")
    task = checkpoint.load(name) if name else None
    base = task.learns_from if task else DetectionDataModule
    parser = _parser(base)
    if task and task.data_recipe:  # of a training
        parser.set_defaults(data=_data_settings(task.data_recipe, str(name), base))
    options = parse(parser, for_other_data(arguments, base))
    assert task is not None  # or the parser has missed it
    if options.out and not isinstance(task, DetectionTask):
        kind = type(task.model).__name__
        raise ConfigError(f"--out {options.out}: {kind} has no detections to write; --metrics writes its figures")
    if isinstance(task, SegmentationTask):
        task.tta = tta_config(options)
    for option in ("out", "metrics"):  # what cannot be written must not be found out after hours
        check_writable(f"--{option}", getattr(options, option))
    try:
        data = parser.instantiate_classes(options).data
    except ValueError as error:  # what jsonargparse makes of any error in a constructor
        raise root_cause(error) from error
    data.use_classes(task.class_names)
    if isinstance(task, DetectionTask) and task.model.needs_masks and data.masks == "none":
        data.masks = "all"

    callbacks: list[Callback] = [ProgressBar()] if sys.stdout.isatty() else []
    try:
        trainer = Trainer(
            devices=options.devices,
            precision=options.precision,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=bool(callbacks),
            enable_model_summary=False,
            callbacks=callbacks,
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"--devices {options.devices} --precision {options.precision}: {error}") from error
    trainer.validate(task, data, verbose=False)
    if trainer.is_global_zero:
        _report(task, data, options.out, options.metrics)


DATA = "Or a folder, of which is found out what it holds; by default the data of the checkpoint."
PRECISION = "Such as bf16-mixed, in which a training on a GPU validates by default: its figures may differ a little."


def _parser(base: type[Any]) -> ArgumentParser:
    parser = ArgumentParser(
        prog="detseg evaluate",
        usage="detseg evaluate --checkpoint FILE [--data NAME.yaml|CLASS|FOLDER] [--out FILE.json] "
        "[--metrics FILE.json]",
        **PARSER,
    )
    parser.add_argument("--checkpoint", type=str, required=True, help="What a training or `detseg convert` wrote.")
    parser.add_subclass_arguments(base, "data", help=DATA)
    parser.add_argument(
        "--module", type=str | None, help="A module with classes of your own that the checkpoint needs."
    )
    parser.add_argument("--devices", type=int, default=1, help="GPUs, or processes on a CPU.")
    parser.add_argument("--precision", type=str, default="32-true", help=PRECISION)
    parser.add_argument("--out", type=Path | None, help="File for the detections, in COCO's result format.")
    parser.add_argument("--metrics", type=Path | None, help="File for every figure by name, as JSON.")
    if base is SegmentationDataModule:
        add_tta_options(parser)
    return parser


def _value(arguments: Sequence[str], option: str) -> str | None:
    """What is given for an option, before anything is parsed."""
    for argument, following in zip(arguments, [*arguments[1:], None], strict=True):
        name, equals, value = argument.partition("=")
        if name == option:
            return value if equals else following
    return None


def _data_settings(config: Any, path: str, base: type[Any]) -> Any:
    """The data of a checkpoint as the default of ``data``. Raises CheckpointError for what is no recipe of data."""
    try:
        if not isinstance(from_config(config), base):
            raise TypeError("it is no data set")
        return _settings(config, plain=False)
    except Exception as error:  # the file may hold anything
        raise CheckpointError(f"{path}: cannot rebuild its data: {str(error).strip(chr(39))}") from error


def _settings(config: Any, plain: bool) -> Any:
    """A recipe as the default of a parser's setting, so that parts of it can be given otherwise.

    jsonargparse imports the classes that a default names. So only the recipe of an object, whose class is known
    already, may stand where a class is expected. Raises TypeError for what else could be taken as the name of one;
    ``plain`` tells that the setting is of a type where a text is a text.
    """
    if isinstance(config, dict) and set(config) == {"class", "init_args"}:
        cls = type(from_config(config))  # not imported for its name: known already, or an error
        hints: dict[str, Any] = {}
        for base in reversed(cls.__mro__):  # a subclass may hand on arguments that only its base declares
            hints |= typing.get_type_hints(vars(base)["__init__"]) if "__init__" in vars(base) else {}
        init_args = {name: _settings(value, _is_plain(hints.get(name))) for name, value in config["init_args"].items()}
        return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": init_args}
    if isinstance(config, dict):
        if named := {"class_path", "init_args", "dict_kwargs"} & set(config):
            raise TypeError(f"{min(named)} could name code to be imported")
        return {key: _settings(value, plain) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [_settings(value, plain) for value in config]
    if isinstance(config, str) and not plain:
        raise TypeError(f"{config!r} stands where a class is expected, and could name code to be imported")
    return config


def _is_plain(hint: Any) -> bool:
    """Whether a type has nothing but plain values in it."""
    if typing.get_origin(hint) is Literal:
        return True
    return (typing.get_origin(hint) or hint) in PLAIN and all(map(_is_plain, typing.get_args(hint)))


def _report(task: Task, data: Any, out: Path | None, metrics: Path | None) -> None:
    print(task.table(task.figures))
    print("\nvalidation losses: " + ", ".join(f"{name} {value:.4f}" for name, value in task.losses.items()))
    print(f"images per second: {task.figures['images_per_second']:.1f}")
    if metrics:
        write_figures(task.figures, metrics)
    if out and isinstance(task, DetectionTask) and task.detections is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(coco_results(data.val_annotations, task.detections)) + "\n")
    for file in filter(None, (metrics, out)):
        print(f"written: {file}")
