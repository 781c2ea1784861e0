"""`detseg evaluate`: the metrics of a checkpoint on a data set."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt
from lightning.pytorch import Callback, Trainer
from torch.nn import ModuleList

from detseg import checkpoint
from detseg.callbacks import OutputRecorder, ProgressBar
from detseg.cli._configs import find_configs, for_other_data, value_of
from detseg.cli._console import import_module
from detseg.cli._parser import instantiate, make_parser, parse
from detseg.cli._report import check_thresholds, save_thresholds, write_report
from detseg.cli._views import CHECKPOINT, add_view_options, make_predictor, split_checkpoints, tile_overlap
from detseg.configurable import from_config, to_class_paths
from detseg.data import DetectionDataModule
from detseg.data.modules.base import EvaluationSplit
from detseg.errors import CheckpointError, ConfigError, reason
from detseg.folders import check_writable, writing
from detseg.inference import MultiViewPredictor
from detseg.inference.tile_size import choose_tile_size
from detseg.metrics import CocoAP, coco_results, write_metrics
from detseg.report.page import check_page
from detseg.report.sections import MISS_COST
from detseg.report.slices import read_attributes
from detseg.tasks import DetectionTask, SegmentationTask, Task
from detseg.tasks.image_predictor import ImagePredictor

log = logging.getLogger(__name__)


def run(arguments: Sequence[str]) -> None:
    """Evaluate a checkpoint on its own data or on other data, whose classes are matched by name."""
    arguments, members = split_checkpoints(arguments)
    arguments = find_configs(arguments)
    if module := value_of("module", arguments):
        import_module(module)
    name = value_of("checkpoint", arguments)
    task = checkpoint.load(name) if name else None
    base = task.datamodule_cls if task else DetectionDataModule
    parser = _parser(base)
    if task and task.data_recipe:  # of a training
        parser.set_defaults(data=_data_settings(task.data_recipe, str(name), base))
    options = parse(parser, for_other_data(arguments, base))
    assert task is not None  # the parser requires --checkpoint
    _check(task, options)
    data = instantiate(parser, options).data
    data.use_classes(task.class_names)
    if isinstance(task, DetectionTask) and task.model.needs_masks and data.masks == "none":
        data.masks = "all"
    trained_root = getattr(from_config(task.data_recipe), "root", None) if task.data_recipe else None
    trained_here = _resolved(trained_root) == _resolved(data.root)
    if options.split or not trained_here:
        data.evaluate_on(options.split)

    attributes = None
    if slices := options.get("slices"):
        attributes = read_attributes(slices, [str(file) for file in data.val_annotations.files])
    _use_views(task, members, data, options)
    recorder = OutputRecorder() if options.report else None
    trainer = _trainer(options, [recorder] if recorder else [])
    trainer.validate(task, data, verbose=False)
    if trainer.is_global_zero:
        _report(task, data, options)
        origin = Path(options.checkpoint)
        if options.report:
            cost = options.get("miss_cost", MISS_COST)
            with writing("--report", options.report):
                is_written = write_report(task, options.report, origin, recorder, trained_here, attributes, cost)
            if is_written:
                print(f"written: {options.report}")
        if isinstance(task, DetectionTask) and options.thresholds:
            save_thresholds(task, origin, options.thresholds, options.miss_cost)


def _check(task: Task, options: Namespace) -> None:
    """Raise ConfigError for options that do not fit the task, and for files that cannot be written."""
    if options.data is None:
        raise ConfigError(f"--data: must be set; {options.checkpoint} holds no data set of a training")
    if options.out and not isinstance(task, DetectionTask):
        name = type(task.model).__name__
        raise ConfigError(f"--out {options.out}: {name} has no detections to write; write its metrics with --metrics")
    if isinstance(task, DetectionTask):
        if options.slices and not options.report:
            raise ConfigError(f"--slices {options.slices}: needs a report; add --report FILE.html")
        if options.out and not task.detection_metric:
            raise ConfigError(f"--out {options.out}: no metric of the checkpoint keeps detections; leave it out")
        if options.evaluator == "pycocotools" and not _coco_ap(task):
            raise ConfigError("--evaluator pycocotools: CocoAP is not a metric of the checkpoint; leave the option out")
        if options.thresholds:
            check_thresholds(task, Path(options.checkpoint), options.thresholds)
    if options.report:
        check_page("--report", options.report, {"--out": options.out, "--metrics": options.metrics})
    for option in ("out", "metrics", "report"):  # before hours of evaluation
        check_writable(f"--{option}", getattr(options, option))


def _trainer(options: Namespace, callbacks: list[Callback]) -> Trainer:
    bars: list[Callback] = [ProgressBar()] if sys.stdout.isatty() else []
    try:
        return Trainer(
            devices=options.devices,
            precision=options.precision,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=bool(bars),
            enable_model_summary=False,
            callbacks=[*bars, *callbacks],
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"--devices {options.devices} --precision {options.precision}: {error}") from error


DATA = "Or a folder, whose format is detected; default: the data of the checkpoint."
EVALUATOR = "pycocotools: also print the official COCO metrics, and the largest difference."
SPLIT = "Default: val, else test; of data that is not split and was not trained on, all images."
REPORT = "HTML file of the evaluation report; its values go to report.json beside it."
SLICES = "CSV table with a column of image names: the report has metrics for each value of the other columns."
THRESHOLDS = "Save the score threshold of each class in the checkpoint: best-f1, or cheapest, see --miss_cost."
PRECISION = "Such as bf16-mixed, the default of training on a GPU, where the metrics may differ slightly."


def _parser(base: type[Any]) -> ArgumentParser:
    usage = (
        "--checkpoint FILE [FILE ...] [--data NAME.yaml|CLASS|FOLDER] [--split test] [--out FILE.json]\n"
        "    [--metrics FILE.json] [--report FILE.html] [--scales [FACTOR,...]] [--flip true]\n"
        "    [--tile PIXELS|auto]"
    )
    parser = make_parser("evaluate", usage)
    parser.add_argument("--checkpoint", type=str, required=True, help=CHECKPOINT)
    parser.add_subclass_arguments(base, "data", help=DATA)
    parser.add_argument("--split", type=EvaluationSplit | None, help=SPLIT)
    parser.add_argument("--module", type=str | None, help="A module with your own classes that the checkpoint needs.")
    parser.add_argument("--devices", type=PositiveInt, default=1, help="GPUs, or processes on a CPU.")
    parser.add_argument("--precision", type=str, default="32-true", help=PRECISION)
    parser.add_argument("--out", type=Path | None, help="File for the detections, in COCO's result format.")
    parser.add_argument("--metrics", type=Path | None, help="JSON file for all metrics by name.")
    parser.add_argument("--report", type=Path | None, help=REPORT)
    if issubclass(base, DetectionDataModule):
        parser.add_argument("--slices", type=Path | None, help=SLICES)
        parser.add_argument("--thresholds", type=Literal["best-f1", "cheapest"] | None, help=THRESHOLDS)
        parser.add_argument("--miss_cost", type=float, default=MISS_COST, help="Cost of a miss, in false positives.")
        parser.add_argument("--evaluator", type=Literal["detseg", "pycocotools"], default="detseg", help=EVALUATOR)
    add_view_options(parser, auto=base is DetectionDataModule)
    return parser


def _use_views(task: Task, members: Sequence[str], data: Any, options: Namespace) -> None:
    """Let validations use the ensemble, the test-time augmentation and the tiles of the options, if there are any."""
    if options.tile == "auto":
        labels = data.val_annotations
        options.overlap = tile_overlap(options)
        options.tile, why = choose_tile_size(labels.boxes, labels.sizes, task.model.preprocessing, options.overlap)
        options.overlap = None if options.tile is None else options.overlap
        log.info("--tile auto: %s", why)
    predictor = make_predictor(task.model, members, options)
    if isinstance(task, SegmentationTask):
        task.tta = predictor.tta
    if isinstance(predictor, MultiViewPredictor):
        task.predictor = ImagePredictor(lambda images: predictor(images, data.batch_size, 0.0), data)
        task.members = ModuleList(predictor.models)  # on the device of the task


def _coco_ap(task: DetectionTask) -> CocoAP | None:
    return next((metric for metric in task.metrics if isinstance(metric, CocoAP)), None)


def _data_settings(description: Any, path: str, base: type[Any]) -> Any:
    """Return the data of a checkpoint as the default of ``data``. Raises CheckpointError if it is not a data set."""
    try:
        if not isinstance(from_config(description), base):
            raise TypeError("it is not a data set")
        return to_class_paths(description)
    except Exception as error:  # the file may hold anything
        raise CheckpointError(f"{path}: cannot rebuild its data: {reason(error)}") from error


def _report(task: Task, data: Any, options: Namespace) -> None:
    """Print the metrics, and write the files that were asked for."""
    print(task.format_table(task.metric_values))
    if task.losses:
        print("\nvalidation losses: " + ", ".join(f"{name} {value:.4f}" for name, value in task.losses.items()))
    print(f"images: {len(data.val_annotations)} of {data.count_images()} labelled ones in {data.root}")
    print(f"images per second: {task.metric_values['images_per_second']:.1f}")
    if options.metrics:
        with writing("--metrics", options.metrics):
            write_metrics(task.metric_values, options.metrics)
    if isinstance(task, DetectionTask):
        if options.out and task.detections is not None:
            with writing("--out", options.out):
                text = json.dumps(coco_results(data.val_annotations, task.detections)) + "\n"
                options.out.write_text(text, encoding="utf-8")
        if options.evaluator == "pycocotools" and (metric := _coco_ap(task)):
            from detseg.metrics.pycocotools_evaluator import compare

            print(f"\n{compare(metric, task.metric_values)}")
    for file in filter(None, (options.metrics, options.out)):
        print(f"written: {file}")


def _resolved(folder: Path | None) -> Path | None:
    return folder and Path(folder).resolve()
