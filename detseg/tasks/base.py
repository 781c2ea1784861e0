"""The base of all tasks: training steps, validation, and checkpoints of a model."""

from __future__ import annotations

import logging
import math
import time
import warnings
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from detseg.compat import translate_checkpoint
from detseg.configurable import to_config
from detseg.data.loading.samplers import seed_step
from detseg.errors import ConfigError
from detseg.metrics import PerClassMetric, format_tables
from detseg.plural import counted
from detseg.structures import Batch
from detseg.tasks import metadata
from detseg.tasks.compilation import Loss, compiled
from detseg.tasks.loss_check import BadSteps, LossCheck, RunningStatistics, spoil_gradient
from detseg.tasks.memory import Halving, set_batch_size
from detseg.tasks.optimization import OptimizerConfig, ScheduleConfig, require_at_least
from detseg.tasks.rank_stats import gather

log = logging.getLogger(__name__)


class Task(LightningModule):
    """Train and evaluate a ``model``: ``Trainer(...).fit(task, data)``.

    ``metrics`` are computed in each validation: those of ``detseg.metrics``, or any ``torchmetrics.Metric`` with one
    value or a dictionary of them. Training monitors the first one; the best value is the lowest if its
    ``higher_is_better`` is False, else the highest.

    ``lr`` is defined for ``reference_batch`` images per step and scales linearly with the images of the real step
    (Goyal et al. 2017, arXiv:1706.02677): batch size x devices x accumulated batches. With ``compile_loss``,
    ``torch.compile`` compiles the training step, for GPUs; that takes a minute or more for each shape of images.

    A step whose loss or gradient is not finite is left out, and its batch written to ``bad_steps.jsonl`` in the
    trainer's ``default_root_dir``. After ``max_bad_steps`` of them in a row, or more than 1 % of all, training stops.

    After a validation ``losses`` holds the losses by name, and ``metric_values`` these and the values of all metrics.
    The model gets class names, category ids and preprocessing from the data.
    """

    datamodule_cls: ClassVar[type[LightningDataModule]]
    predictor: Any = None  # an ImagePredictor that validations use in place of the model, without losses

    def __init__(
        self,
        model: nn.Module,
        metrics: Sequence[Metric] | None = None,
        lr: float = 0.02,
        reference_batch: int = 16,
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008 - frozen
        schedule: ScheduleConfig = ScheduleConfig(),  # noqa: B008 - frozen
        compile_loss: bool = False,
        max_bad_steps: int = 10,
    ) -> None:
        super().__init__()
        require_at_least(lr=(lr, 0), reference_batch=(reference_batch, 1), max_bad_steps=(max_bad_steps, 1))
        metrics = self.default_metrics() if metrics is None else metrics
        if not metrics:
            raise ConfigError("metrics: is empty; name one metric or more, the first of which is monitored")
        self.model: Any = model.to(memory_format=torch.channels_last)  # as images arrive; no state changes by it
        self.metrics: Any = nn.ModuleList(metrics)
        self.lr, self.reference_batch = lr, reference_batch
        self.optimizer, self.schedule = optimizer, schedule
        self.compile_loss, self.max_bad_steps = compile_loss, max_bad_steps
        self._compiled: Loss | None = None

        self.data_recipe: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.run_settings: dict[str, Any] = {}
        self.resume_anyway = False
        self.metric_values: dict[str, float] = {}
        self.losses: dict[str, float] = {}
        self._other_values: list[str] = []  # names of the values of metrics that have no table
        self._check: LossCheck | None = None
        self._bad_steps: BadSteps | None = None
        self._statistics: RunningStatistics | None = None
        self._halving = Halving()
        self._reset()

    @staticmethod
    @abstractmethod
    def default_metrics() -> list[Metric]:
        """Build the metrics of a task that is given none."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes in the order of the labels; none before the training."""
        return self.model.class_names  # type: ignore[no-any-return]

    @property
    def data(self) -> Any:
        """The data module of the trainer."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, self.datamodule_cls):
            raise ConfigError(
                f"{type(self).__name__} needs a {self.datamodule_cls.__name__}, not a data loader: "
                "trainer.fit(task, data)"
            )
        return data

    @property
    def monitor_metrics(self) -> tuple[str, ...]:
        """Values to report after each epoch; the first one decides which checkpoint is the best."""
        first = self.metrics[0]
        return tuple(getattr(first, "monitor_metrics", ())) or (type(first).__name__,)

    @property
    def monitor_mode(self) -> Literal["min", "max"]:
        """Direction in which the first of ``monitor_metrics`` improves: up, unless its metric is lower-is-better."""
        return "min" if self.metrics[0].higher_is_better is False else "max"

    def setup(self, stage: str) -> None:
        data = self.data
        self.model.class_names = self.class_names or data.classes
        if data.classes != self.class_names:
            raise ConfigError(
                f"the model was trained on the classes {', '.join(self.class_names)}, the data has "
                f"{', '.join(data.classes)}: data.use_classes(task.class_names) matches them by name, or build a model "
                "for those of the data"
            )
        if data.num_classes != self.model.num_classes:
            raise ConfigError(
                f"the model has {self.model.num_classes} classes, but the data {data.num_classes}: "
                "build it with num_classes=data.num_classes"
            )
        for metric in self.metrics:
            if isinstance(metric, PerClassMetric):
                metric.set_classes(self.class_names)
        if stage == "fit":
            self.model.category_ids, self.model.preprocessing = data.category_ids, data.preprocessing
            self.data_recipe = to_config(data)
            self.run_settings = metadata.run_settings(self)
            self.describe()  # raises now, not after an epoch, if no checkpoint can describe the model
            if self.compile_loss:
                if self.trainer.strategy.root_device.type == "cpu":
                    log.warning("compile_loss: made for GPUs; on a CPU the steps may take longer than without it")
                self._compiled = compiled(self.model.loss, graphs=self.trainer.accumulate_grad_batches == 1)

    def teardown(self, stage: str) -> None:
        self._compiled = self._statistics = None  # bound to this model, and neither copied nor pickled
        self._halving = Halving()  # without the last batch

    # Training

    def training_step(self, batch: Batch, index: int) -> Tensor:
        seed_step(self.current_epoch, index, self.global_rank)
        self._statistics = self._statistics or RunningStatistics(self.model)
        losses = self._halving.whole(self._compiled or self.model.loss, batch)
        if losses is None:
            losses = self._halving.halves(self.model.loss)
        total = torch.stack(list(losses.values())).sum()
        self._check_loss()
        detached = {name: value.detach() for name, value in losses.items()}
        self._check = LossCheck(self.global_step, detached, batch, total)
        named = {f"train/{name}": value.detach() for name, value in {"loss": total, **losses}.items()}
        self.log_dict(named, prog_bar=True, batch_size=len(batch.images))
        return spoil_gradient(total)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute the gradients; where the memory does not suffice for it, compute the step again in halves."""
        # Other ranks would wait for this one, and the gradients of other batches are in the sum already.
        alone = self.trainer.world_size == self.trainer.accumulate_grad_batches == 1 and not self._scales_gradients
        try:
            torch.autograd.backward(loss)
            return
        except torch.OutOfMemoryError:
            if not alone:
                raise
        loss.detach_()  # frees the failed pass
        self.zero_grad()
        with self.trainer.precision_plugin.forward_context():
            losses = self._halving.halves(self.model.loss)
        torch.autograd.backward(spoil_gradient(torch.stack(list(losses.values())).sum()))

    def _check_loss(self) -> None:
        """Record the previous step if it was not finite: its answer has arrived, so nothing waits for it."""
        check, self._check = self._check, None
        if check is None or check.is_finite():
            return
        trainer = self.trainer
        if self._bad_steps is None:
            folder, steps = Path(trainer.default_root_dir), trainer.estimated_stepping_batches
            self._bad_steps = BadSteps(folder, self.max_bad_steps, steps)
        images = [str(self.data.path("train", index)) for index in check.image_index.tolist()]
        self._bad_steps.add(check, self.current_epoch, self.global_rank, images)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Keep values that are not finite out of the weights; ``_check_loss`` records them a step later."""
        # With float16 such gradients are the rule, and the gradient scaler skips the step.
        if self._check is not None and not self._scales_gradients:
            self._check.leave_out(optimizer)
        if self._statistics is not None:
            self._statistics.restore()

    @property
    def _scales_gradients(self) -> bool:
        return getattr(self.trainer.precision_plugin, "scaler", None) is not None

    def on_train_epoch_end(self) -> None:
        self._check_loss()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        if self.data.tries_batch_sizes:
            set_batch_size(self)
        self.trainer.fit_loop.setup_data()  # makes num_training_batches known
        epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        # A fused optimizer can leave out a step. Lightning clips no gradients of one, and a scaler works without.
        fits = self.device.type in ("cpu", "cuda") and not self.trainer.gradient_clip_val and not self._scales_gradients
        optimizer = self.optimizer.build(self.model, self._scaled_lr(epoch), fits or None)
        steps = self.trainer.estimated_stepping_batches
        every_step, *every_validation = self.schedule.build(optimizer, epoch, steps, self.monitor_mode)
        frequency = self.trainer.check_val_every_n_epoch or 1
        monitored = {"monitor": f"val/{self.monitor_metrics[0]}", "frequency": frequency}
        return [optimizer], [  # type: ignore[return-value]
            {"scheduler": every_step, "interval": "step"},
            *({"scheduler": scheduler, **monitored} for scheduler in every_validation),
        ]

    def _scaled_lr(self, epoch_steps: int) -> float:
        trainer = self.trainer
        batch, devices, accumulated = self.data.batch_size, trainer.world_size, trainer.accumulate_grad_batches
        images = batch * devices * accumulated
        lr: float = self.lr * images / self.reference_batch
        log.info(
            "learning rate %g = %g x %d / %d: %d images per step (batch %d x %d devices x %d accumulated); "
            "it rises over the first %s",
            *(lr, self.lr, images, self.reference_batch, images, batch, devices, accumulated),
            counted(min(self.schedule.warmup_steps, epoch_steps), "step"),
        )
        return lr

    def finish(self, folder: Path) -> bool:
        """Do the work after the last step, in the ``folder`` of the run. Returns False if there is none."""
        return False

    # Validation

    @abstractmethod
    def validate(self, batch: Batch) -> tuple[dict[str, Tensor], Any]:
        """Update the metrics with a batch; return its losses, and outputs for callbacks."""

    def compute_metrics(self) -> dict[str, float]:
        """Compute the values of all metrics by name. Every rank must call it."""
        values: dict[str, float] = {}
        self._other_values = []
        for metric in self.metrics:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The ``compute`` method")  # of a rank without an image
                computed = scalars(type(metric).__name__, metric.compute())
            if not isinstance(metric, PerClassMetric):
                self._other_values += computed
            values |= computed
        return values

    def _check_monitored(self, values: Mapping[str, float]) -> None:
        missing = [name for name in self.monitor_metrics if name not in values]
        if missing:
            raise ConfigError(
                f"metrics: {type(self.metrics[0]).__name__}, the first, computes no {missing[0]}; give it an "
                "attribute monitor_metrics with names of its values"
            )

    def on_validation_epoch_start(self) -> None:
        self._check_loss()
        self._reset()
        for metric in self.metrics:
            metric.reset()

    def _reset(self) -> None:
        self._losses: dict[str, Tensor | float] = defaultdict(float)  # sums over the images
        self._image_index: list[Tensor] = []
        self._start = time.perf_counter()

    def validation_step(self, batch: Batch, index: int) -> Any:
        if not len(batch.image_index):  # the batch of a rank that has no image
            return None
        # The losses draw samples: the same ones each time, on any rank, and none of those that training draws.
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(int(batch.image_index[0]))
            losses, outputs = self.validate(batch)
        for name, value in (losses and {"loss": torch.stack([*losses.values()]).sum(), **losses}).items():
            self._losses[name] += value * len(batch.image_index)
        self._image_index.append(batch.image_index)
        return outputs

    def on_validation_epoch_end(self) -> None:
        values = self.compute_metrics()
        seen = torch.cat(self._image_index).tolist() if self._image_index else []
        losses = {name: float(value) for name, value in self._losses.items()}
        ranks = gather((seen, losses, time.perf_counter() - self._start))
        self._reset()
        images = len({index for seen, _, _ in ranks for index in seen})
        names = dict.fromkeys(name for _, losses, _ in ranks for name in losses)
        means = {name: sum(losses.get(name, 0.0) for _, losses, _ in ranks) / images for name in names}
        values |= means | {"images_per_second": images / max(seconds for _, _, seconds in ranks)}
        fitting = self.trainer.state.fn == TrainerFn.FITTING
        if fitting:
            self._check_monitored(values)
        if self.trainer.sanity_checking:
            return
        # Were the ranks to differ in a digit, they could disagree about the best checkpoint.
        self.metric_values, self.losses = self.trainer.strategy.broadcast((values, means))
        overall = {f"val/{name}": value for name, value in self.metric_values.items() if "/" not in name}
        self.log_dict(overall, batch_size=1)
        if fitting:
            monitored = ", ".join(f"{name} {self.metric_values[name]:.3f}" for name in self.monitor_metrics)
            log.info("epoch %d: %s, validation loss %.3f", self.current_epoch, monitored, self.metric_values["loss"])

    def format_table(self, values: Mapping[str, float]) -> str:
        """Lay out the values of all metrics as text for a terminal."""
        table = format_tables([metric for metric in self.metrics if isinstance(metric, PerClassMetric)], values)
        others = "\n".join(f"{name} {values[name]:.4f}" for name in self._other_values if name in values)
        return "\n\n".join(filter(None, (table, others)))

    # Checkpoints

    def describe(self) -> dict[str, Any]:
        """The metadata of a checkpoint, in plain values."""
        return metadata.describe(self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["detseg"] = self.describe()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint.update(translate_checkpoint(checkpoint))
        metadata.resume(self, checkpoint.get("detseg", {}))


def scalars(name: str, value: Any) -> dict[str, float]:
    """The values of a metric by name: of a dictionary those that are one number, else the number as ``name``."""
    values = value if isinstance(value, Mapping) else {name: value}
    return {key: float(one) for key, one in values.items() if not isinstance(one, Tensor) or one.numel() == 1}
