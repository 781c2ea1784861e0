"""`detseg train`: a LightningCLI with ``model``, ``task``, ``data`` and ``trainer``, and the folder of a run."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import logging
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LambdaCallback, LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from detseg import checkpoint
from detseg.callbacks import (
    BestCheckpoint,
    DataLoadingMonitor,
    LastCheckpoint,
    OutputRecorder,
    PredictionImages,
    ProgressBar,
    ProgressLog,
    exponential_moving_average,
)
from detseg.check.training_checks import check_before_training, check_masks_before_training
from detseg.cli import _help
from detseg.cli._configs import SUFFIXES, class_path, find_configs, for_other_data, where
from detseg.cli._loggers import DEFAULT, LOGGERS, make_loggers
from detseg.cli._own_data import with_own_config
from detseg.cli._parser import instantiate, parse, parser_options
from detseg.cli._report import summarize, write_report
from detseg.configurable import subclasses
from detseg.data import DetectionDataModule, SegmentationDataModule
from detseg.errors import CheckpointError, ConfigError, DataError, MaskError, reason
from detseg.metrics import write_metrics
from detseg.plural import counted
from detseg.tasks import TASKS, DetectionTask, SegmentationTask, Task
from detseg.weights import checkpoint_file

log = logging.getLogger(__name__)

RUNS = Path("runs")
RESUME = (
    "A checkpoint to continue from, 'last' for that of the latest run, or 'auto' to continue if there is one and to "
    "start otherwise."
)


class TrainCLI(LightningCLI):
    """Parse the settings and build data, model, task and trainer."""

    recorder: OutputRecorder | None = None

    def __init__(self, arguments: Sequence[str]) -> None:
        arguments = with_own_config(find_configs(arguments))
        task = task_of(arguments)
        self.arguments = for_other_data(arguments, task.datamodule_cls)
        super().__init__(
            task,
            task.datamodule_cls,
            subclass_mode_data=True,
            args=self.arguments,
            run=False,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,  # writes class paths into checkpoints, which loading would import
            save_config_callback=None,
            trainer_defaults={
                "max_epochs": 12,
                "log_every_n_steps": 10,
                "enable_model_summary": False,
            },
            parser_kwargs={"usage": _help.TRAIN, "description": "Train a model.", **parser_options("train")},
        )

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add ``trainer``, ``model``, ``task`` and ``data``, with the links from data to model to task."""
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults({f"trainer.{name}": value for name, value in self.trainer_defaults.items()})
        base = next(base for base, task in TASKS.items() if task is self.model_class)
        parser.add_subclass_arguments(base, "model", fail_untyped=False, required=True)
        parser.add_lightning_class_args(self._model_class, "task")
        parser.add_lightning_class_args(self._datamodule_class, "data", subclass_mode=True)
        parser.link_arguments("data.num_classes", "model.init_args.num_classes", apply_on="instantiate")
        parser.link_arguments("model", "task.model", apply_on="instantiate")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--name", type=str | None, help="Folder of the run, runs/NAME; default: that of --config.")
        parser.add_argument("--resume", type=str | None, help=RESUME)
        parser.add_argument("--resume_anyway", type=bool, default=False, help="Continue although the settings changed.")
        parser.add_argument(
            "--patience", type=int | None, help="Stop after this number of validations without improvement."
        )
        parser.add_argument(
            "--ema",
            type=float | None,
            help="Decay of an exponential moving average of the weights.",
        )
        parser.add_argument(
            "--max_time", type=str | None, help="Stop after this time, DD:HH:MM:SS, of all parts of a run."
        )
        parser.add_argument(
            "--logger", type=str | None, help=f"{', '.join(LOGGERS)}, joined by commas; default: {DEFAULT}."
        )
        parser.add_argument("--report", type=bool, default=True, help="Write runs/NAME/report.html after the training.")
        parser.add_class_arguments(LastCheckpoint, "checkpoint", skip={"folder"}, instantiate=False)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parse(parser, args)
        self._enable_masks()
        if self.config.trainer.precision is None:
            self.config.trainer.precision = default_precision(self.config.trainer.accelerator)
        if place := where("model.num_classes", self.arguments):
            raise ConfigError(f"model.num_classes{place}: comes from the data; leave it out")

    def _enable_masks(self) -> None:
        """Read masks if the model learns from them and the settings do not choose any."""
        module, _, name = self.config.model.class_path.rpartition(".")
        if not getattr(getattr(sys.modules[module], name), "needs_masks", False):
            return
        settings = self.config.data.init_args
        if settings.get("masks") == "none":
            settings["masks"] = "all"

    def before_instantiate_classes(self) -> None:
        files = [value.rpartition("=")[2] for value in self.arguments if value.endswith(SUFFIXES)]
        name = self.config.name or (Path(files[0]).stem if files else "detseg")
        self.resumed = _find_checkpoint(name, self.config.resume) if self.config.resume else None
        if self.resumed:
            self.folder = self.resumed.parent
        else:  # a folder that `--resume auto` finds without a checkpoint was left by a start that was killed
            self.folder = RUNS / name if self.config.resume == "auto" else _new_folder(name)

    def instantiate_classes(self) -> None:
        try:
            self.config_init = instantiate(self.parser, self.config)
        except DataError as error:
            raise self._with_hint(error) from error
        settings = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        for key in ("resume", "resume_anyway"):  # training with the same settings again starts anew
            del settings[key]
        self.datamodule, self.model, self.task = (self.config_init[key] for key in ("data", "model", "task"))
        self.task.config = settings
        self.task.resume_anyway = self.config.resume_anyway
        self.trainer = self.instantiate_trainer()

    def _write_config(self, trainer: Trainer, *_: Any) -> None:
        """Write the settings of the run, once a resumed training has accepted them."""
        if trainer.is_global_zero:
            (self.folder / "config.yaml").write_text(
                yaml.safe_dump(self.task.config, sort_keys=False), encoding="utf-8"
            )

    def _with_hint(self, error: DataError) -> DataError:
        """Add to an error of the data the command that lists all errors of the data set."""
        settings = self.config.data.get("init_args")
        root = settings.get("root") if settings else None
        if isinstance(error, MaskError) or not root or not Path(root).is_dir():
            return error
        return DataError(f"{error}. All problems of the data set: `detseg check {shlex.quote(root)}`")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings = self.config_init["trainer"]
        if settings["default_root_dir"] is None:
            kwargs["default_root_dir"] = self.folder
        if self.config.logger or settings["logger"] in (None, True):
            kwargs["logger"] = make_loggers(self.config.logger or DEFAULT, self.folder)
        if self.config.max_time is not None:
            kwargs["max_time"] = self.config.max_time
        has_images = isinstance(self.task, (DetectionTask, SegmentationTask))
        callbacks: list[Callback] = [PredictionImages(self.folder / "pictures")] if has_images else []
        if self.config.report and not isinstance(self.task, DetectionTask):
            self.recorder = OutputRecorder()
            callbacks.append(self.recorder)
        callbacks += [DataLoadingMonitor(), LambdaCallback(on_fit_start=self._write_config)]
        if settings["enable_checkpointing"] is not False:
            best = BestCheckpoint(self.folder, self.task.monitor_metrics[0], self.task.monitor_mode)
            callbacks += [best, LastCheckpoint(self.folder, **self.config_init["checkpoint"])]
        if self.config.patience is not None:
            monitored = f"val/{self.task.monitor_metrics[0]}"
            callbacks.append(EarlyStopping(monitored, patience=self.config.patience, mode=self.task.monitor_mode))
        if self.config.ema is not None:
            callbacks.append(exponential_moving_average(self.config.ema))
        if "logger" in kwargs:
            callbacks.append(LearningRateMonitor("step"))
        if settings["enable_progress_bar"] is not False:
            kwargs["enable_progress_bar"] = sys.stdout.isatty()
            callbacks.append(ProgressBar() if sys.stdout.isatty() else ProgressLog(settings["log_every_n_steps"]))
        self.trainer_defaults["callbacks"] = callbacks
        try:
            return super().instantiate_trainer(**kwargs)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"trainer: {error}") from error


def default_precision(accelerator: Any) -> str:
    """Return the default precision: bfloat16 on a GPU that supports it, else float32.

    On CPUs with bfloat16 instructions the speed depends on the processor: ResNet-50 took half the time on one, and
    longer on another.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    return "32-true"


def run(arguments: Sequence[str]) -> None:
    """Train, and print the metrics of the best checkpoint."""
    cli = TrainCLI(arguments)
    task, trainer, folder = cli.task, cli.trainer, cli.folder
    if isinstance(cli.datamodule, DetectionDataModule):
        check_before_training(cli.datamodule, validates=bool(trainer.limit_val_batches))
    elif isinstance(cli.datamodule, SegmentationDataModule):
        check_masks_before_training(cli.datamodule)
    is_new = trainer.is_global_zero and not folder.exists()
    if trainer.is_global_zero:
        _start(task, folder)
    if cli.resumed:
        log.info("continuing from %s", cli.resumed)
    try:
        trainer.fit(task, cli.datamodule, ckpt_path=cli.resumed, weights_only=True)
        if not trainer.fast_dev_run and task.finish(folder):  # type: ignore[attr-defined]
            _save_finished(task, folder)
    except (SystemExit, KeyboardInterrupt) as error:
        if (folder / "last.ckpt").exists():
            log.info("interrupted; to continue, add --resume %s", folder / "last.ckpt")
        else:
            log.info("interrupted before the first checkpoint was written; start again")
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into SystemExit
            raise KeyboardInterrupt from None
        raise
    except Exception:
        if is_new and trainer.global_step == 0:  # nothing was trained: free the name for the next run
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        summarize(task, trainer, folder)
        if cli.config.report and task.metric_values:
            _write_report(task, folder, cli.recorder)


def task_of(arguments: Sequence[str]) -> type[Task]:
    """Return the task for the model that the arguments name; DetectionTask if they name no known model."""
    name = class_path("model", arguments) or ""
    module, _, last = name.rpartition(".")
    if module:
        with contextlib.suppress(ImportError, ValueError):  # the parser reports it with its key
            importlib.import_module(module)
    model = getattr(sys.modules.get(module), last, None)
    for base, task in TASKS.items():
        if any(cls is model or (cls.__name__ == last and not module) for cls in (base, *subclasses(base))):
            return task
    return DetectionTask


def _find_checkpoint(name: str, resume: str) -> Path | None:
    """Return the checkpoint that ``resume`` names, None for "auto" without a run.

    Raises CheckpointError if training cannot continue from it. A damaged last.ckpt is replaced by the one before it.
    """
    path = Path(resume)
    if resume in ("last", "auto"):
        folders = [RUNS / name, *RUNS.glob(f"{name}-[0-9]*")]
        checkpoints = [path for folder in folders for path in folder.glob("last.ckpt")]
        # A file system without links lacks ``last`` for a moment.
        checkpoints = checkpoints or [path for folder in folders for path in folder.glob("previous.ckpt")]
        if not checkpoints and resume == "auto":
            return None
        if not checkpoints:
            raise CheckpointError(f"--resume last: no run of {name} has left a last.ckpt in {RUNS}/")
        path = max(checkpoints, key=lambda file: file.stat().st_mtime)
    try:
        content = checkpoint.read(path)
    except CheckpointError as error:
        previous = path.with_name("previous.ckpt")
        if path.name != "last.ckpt" or not previous.exists():
            raise
        log.warning("%s; continuing from the checkpoint before it, %s", error, previous)
        path, content = previous, checkpoint.read(previous)
    if "optimizer_states" not in content:
        raise CheckpointError(f"{path}: has no optimizer state, so training cannot continue from it")
    return path


def _new_folder(name: str) -> Path:
    """Return runs/NAME, or the first of runs/NAME-2, runs/NAME-3 ... that does not exist."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    folder = next(RUNS / free for free in names if not (RUNS / free).exists())
    if folder != RUNS / name:
        log.info(
            "%s exists already, so this run writes to %s; add --resume last to continue the latest run of that name, "
            "or remove the folder to use the name again",
            *(RUNS / name, folder),
        )
    return folder


def _start(task: Task, folder: Path) -> None:
    """Log the model, and prepare the folder of the run."""
    counts = [sum(p.numel() for p in task.parameters() if p.requires_grad or not learn) for learn in (False, True)]
    log.info(
        "%s with %.1f million parameters, %.1f of them trainable; %s; results in %s",
        *(
            type(task.model).__name__,
            counts[0] / 1e6,
            counts[1] / 1e6,
            counted(task.model.num_classes, "class"),
            folder,
        ),
    )
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "metrics.csv").exists():  # of the resumed run; the logger overwrites the file
        earlier = len(list(folder.glob("metrics-*.csv"))) + 1
        (folder / "metrics.csv").rename(folder / f"metrics-{earlier}.csv")


def _save_finished(task: Task, folder: Path) -> None:
    """Write the results of ``finish`` to the checkpoints and to metrics.json."""
    last, best = folder / "last.ckpt", folder / "best.ckpt"
    if last.exists():
        finished = {"state_dict": task.state_dict(), "detseg": task.describe()}
        checkpoint_file.write(checkpoint.read(last) | finished, last)
    if best.exists():
        checkpoint.save(task, best)
        write_metrics(task.metric_values, folder / "metrics.json")


def _write_report(task: Task, folder: Path, recorder: OutputRecorder | None) -> None:
    """Write the report of the last validation. If that fails, log the error: the checkpoints remain usable."""
    path = folder / "report.html"
    try:
        if write_report(task, path, folder / "last.ckpt", recorder):
            print(f"report           {path}")
    except Exception as error:
        log.error("no report of the training: %s; its checkpoints are whole", reason(error))
        log.debug("the error", exc_info=error)
