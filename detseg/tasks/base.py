"""What every task does: the steps, the learning rate, the figures of a validation, what its checkpoints carry."""

from __future__ import annotations

import logging
import math
import time
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, ReduceLROnPlateau

from detseg.compat import FORMAT, translate_checkpoint
from detseg.configurable import to_config
from detseg.errors import CheckpointError, ConfigError, DetsegError
from detseg.structures import Batch
from detseg.tasks.compilation import Loss, compiled
from detseg.tasks.schedules import DECAY, WARMUP_FACTOR, Schedule, learning_rate_factor, parameter_groups

log = logging.getLogger(__name__)

PATIENCE = 3  # validations without a better figure, after which "plateau" lowers the learning rate


class LossCheck:
    """A step of training whose loss is known to the device, but not yet here."""

    def __init__(self, number: int, losses: dict[str, Tensor], rows: Tensor, total: Tensor) -> None:
        self.number, self.losses, self.rows = number, losses, rows
        self.finite = torch.isfinite(total.detach())
        self._send()

    def require(self, value: Tensor) -> None:
        """Ask of another ``value`` () too whether it is finite."""
        self.finite = self.finite & torch.isfinite(value)
        self._send()

    def _send(self) -> None:
        self._here = self.finite.to("cpu", non_blocking=True)
        self._arrived = torch.cuda.current_stream().record_event() if self.finite.is_cuda else None

    def is_finite(self) -> bool:
        """Waits for this step's answer, and for nothing that the device was given after it."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return bool(self._here)


class Task(LightningModule):
    """Train and evaluate a ``model``: ``Trainer(...).fit(task, data)``.

    ``lr`` is the learning rate at ``reference_batch`` images a step, and is scaled in proportion to the images of the
    real step (Goyal et al. 2017, arXiv:1706.02677): batch size x devices x accumulated batches. It rises to that over
    the first ``warmup_steps``, the first epoch at most; then the ``schedule`` lowers it: tenfold after each of the
    ``milestones`` (epochs) with "step", to zero with "cosine", tenfold when the figure that matters no longer rises
    with "plateau". ``momentum`` is SGD's. The backbone learns at ``backbone_lr_factor`` times that rate: below 1, what
    is new learns quickly, and what the backbone knows is not lost by it. With ``compile_loss``, ``torch.compile`` makes
    the training step, for GPUs; it takes a minute or more for each shape of images.

    After a validation ``losses`` holds the losses by name, and ``figures`` these and what the task measures.
    The model gets class names, category ids and preprocessing from the data.
    """

    learns_from: ClassVar[type[LightningDataModule]]
    headline: Sequence[str]  # figures to say after each epoch; by the first, the best checkpoint is chosen

    def __init__(
        self,
        model: nn.Module,
        lr: float = 0.02,
        reference_batch: int = 16,
        backbone_lr_factor: float = 1.0,
        optimizer: Literal["sgd", "adamw"] = "sgd",
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        schedule: Schedule = "step",
        milestones: Sequence[int] = (8, 11),
        warmup_steps: int = 1000,
        compile_loss: bool = False,
    ) -> None:
        super().__init__()
        least = {"lr": (lr, 0), "weight_decay": (weight_decay, 0), "momentum": (momentum, 0)}
        least |= {"reference_batch": (reference_batch, 1), "backbone_lr_factor": (backbone_lr_factor, 0)}
        least |= {"warmup_steps": (warmup_steps, 0)}
        for name, (value, limit) in least.items():
            if value < limit:
                raise ConfigError(f"task.{name}: {value} must be at least {limit}")
        self.model: Any = model.to(memory_format=torch.channels_last)  # as images arrive; no state changes by it
        self.lr, self.reference_batch, self.backbone_lr_factor = lr, reference_batch, backbone_lr_factor
        self.optimizer, self.momentum, self.weight_decay = optimizer, momentum, weight_decay
        self.schedule, self.milestones, self.warmup_steps = schedule, milestones, warmup_steps
        self.compile_loss = compile_loss
        self._compiled: Loss | None = None

        self.data_recipe: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.figures: dict[str, float] = {}
        self.losses: dict[str, float] = {}
        self._last: LossCheck | None = None
        self._reset()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes in the order of the labels; none before the training."""
        return self.model.class_names  # type: ignore[no-any-return]

    @property
    def data(self) -> Any:
        """The data that the trainer works on."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, self.learns_from):
            raise ConfigError(
                f"a {type(self).__name__} learns from a {self.learns_from.__name__} as a whole: trainer.fit(task, data)"
            )
        return data

    def setup(self, stage: str) -> None:
        data = self.data
        self.model.class_names = self.class_names or data.classes
        if data.classes != self.class_names:
            raise ConfigError(
                f"the model was trained to find {', '.join(self.class_names)}, "
                f"the data has {', '.join(data.classes)}: "
                "data.use_classes(task.class_names) matches them by name, or build a network for those of the data"
            )
        if data.num_classes != self.model.num_classes:
            raise ConfigError(
                f"the network has {self.model.num_classes} classes, but the data {data.num_classes}: "
                "build it with num_classes=data.num_classes"
            )
        if stage == "fit":
            self.model.category_ids, self.model.preprocessing = data.category_ids, data.preprocessing
            self.data_recipe = to_config(data)
            self.describe()  # what no checkpoint can describe is said now, not after an epoch
            if self.compile_loss:
                if self.trainer.strategy.root_device.type == "cpu":
                    log.warning("task.compile_loss: made for GPUs; on a CPU the steps may take longer than without it")
                self._compiled = compiled(self.model.loss, graphs=self.trainer.accumulate_grad_batches == 1)

    def teardown(self, stage: str) -> None:
        self._compiled = None  # it knows this network alone, and is neither copied nor pickled

    # Training

    def training_step(self, batch: Batch, index: int) -> Tensor:
        losses = (self._compiled or self.model.loss)(batch)
        total = torch.stack(list(losses.values())).sum()
        self._check()
        self._last = LossCheck(
            self.global_step, {name: value.detach() for name, value in losses.items()}, batch.image_index, total
        )
        named = {f"train/{name}": value.detach() for name, value in {"loss": total, **losses}.items()}
        self.log_dict(named, prog_bar=True, batch_size=len(batch.images))
        return total

    def _check(self) -> None:
        """Stop if the last step's loss was not finite. Asked a step later, so that nobody waits for the device."""
        last, self._last = self._last, None
        if last is None or last.is_finite():
            return
        values = ", ".join(f"{name} {value.item():g}" for name, value in last.losses.items())
        images = ", ".join(str(self.data.path("train", row)) for row in last.rows.tolist())
        which = "loss" if not all(value.isfinite() for value in last.losses.values()) else "gradient of the loss"
        raise DetsegError(
            f"the {which} is not finite in step {last.number}: {values}; the images were {images}. "
            "Look at their labels; if they are sound, lower --task.lr or raise --task.warmup_steps"
        )

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Keep what is not finite out of the weights: without its gradient, the step that made it does no harm.

        ``_check`` will stop the training, but that may be a step later.
        """
        # Of float16 such gradients are the rule, and whoever scales them leaves out the step.
        if self._last is None or getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            return
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        self._last.require(get_total_norm(gradients))  # of all ranks, whose losses this one has not seen
        finite = self._last.finite
        if finite.device.type == "cpu" and finite:  # nobody is asked
            return
        for gradient in gradients:
            gradient.masked_fill_(~finite, 0)

    def on_train_epoch_end(self) -> None:
        self._check()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        self.trainer.fit_loop.setup_data()  # makes num_training_batches known
        steps = self.trainer.estimated_stepping_batches
        if self.schedule == "cosine" and not math.isfinite(steps):
            raise ConfigError("the cosine schedule needs an end: set trainer.max_epochs or trainer.max_steps")
        epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        warmup = min(self.warmup_steps, epoch)
        optimizer = self._optimizer(self._scaled_lr(warmup))
        if self.schedule == "plateau":
            # Two schedulers that multiply what they find; a LambdaLR would undo what the other one did.
            rise = LinearLR(optimizer, WARMUP_FACTOR if warmup else 1.0, total_iters=warmup)
            plateau = ReduceLROnPlateau(optimizer, mode="max", factor=DECAY, patience=PATIENCE)
            frequency = self.trainer.check_val_every_n_epoch or 1
            validations = {"monitor": f"val/{self.headline[0]}", "frequency": frequency}
            return [optimizer], [{"scheduler": rise, "interval": "step"}, {"scheduler": plateau, **validations}]  # type: ignore[return-value]
        milestones = [milestone * epoch for milestone in self.milestones]
        factor = learning_rate_factor(self.schedule, warmup, milestones, steps)
        return [optimizer], [{"scheduler": LambdaLR(optimizer, factor), "interval": "step"}]  # type: ignore[return-value]

    def _scaled_lr(self, warmup: int) -> float:
        trainer = self.trainer
        batch, devices, accumulated = self.data.batch_size, trainer.world_size, trainer.accumulate_grad_batches
        images = batch * devices * accumulated
        lr: float = self.lr * images / self.reference_batch
        log.info(
            "learning rate %g = %g x %d / %d: %d images a step (batch %d x %d devices x %d accumulated); "
            "it rises over the first %d steps",
            *(lr, self.lr, images, self.reference_batch, images, batch, devices, accumulated, warmup),
        )
        return lr

    def _optimizer(self, lr: float) -> Optimizer:
        groups = parameter_groups(self.model, lr, self.backbone_lr_factor)
        # A CPU has no quick choice of its own, as a GPU has. Lightning clips no gradients of fused optimizers.
        fused = True if self.device.type == "cpu" and not self.trainer.gradient_clip_val else None
        if self.optimizer == "adamw":
            return AdamW(groups, weight_decay=self.weight_decay, fused=fused)
        return SGD(groups, momentum=self.momentum, weight_decay=self.weight_decay, fused=fused)

    def finish(self, folder: Path) -> bool:
        """Do what is left when the last step is done; ``folder`` is the run's. Whether there was anything."""
        return False

    # Validation

    @abstractmethod
    def validate(self, batch: Batch) -> tuple[dict[str, Tensor], Any]:
        """The losses of a batch, and what the callbacks are told of it. Keeps what ``measure`` will need."""

    @abstractmethod
    def measure(self, rows: NDArray[np.int64]) -> dict[str, float]:
        """The figures of the validation images ``rows``. Called on the first rank, after ``gather``."""

    def gather(self) -> None:
        """Bring together what the ranks have kept. Called on every rank at the end of a validation."""

    def on_validation_epoch_start(self) -> None:
        self._check()
        self._reset()

    def _reset(self) -> None:
        self._losses: dict[str, Tensor | float] = defaultdict(float)  # sums over the images
        self._seen: list[Tensor] = []  # rows of the images
        self._start = time.perf_counter()

    def validation_step(self, batch: Batch, index: int) -> Any:
        if not len(batch.image_index):  # the share of a process that has no image
            return None
        # The losses draw samples: the same ones each time, whatever the rank, and none of those that training draws.
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(int(batch.image_index[0]))
            losses, outputs = self.validate(batch)
        for name, value in {"loss": torch.stack(list(losses.values())).sum(), **losses}.items():
            self._losses[name] += value * len(batch.image_index)
        self._seen.append(batch.image_index)
        return outputs

    def on_validation_epoch_end(self) -> None:
        self.gather()
        seen = torch.cat(self._seen).tolist() if self._seen else []
        losses = {name: float(value) for name, value in self._losses.items()}
        shares = _gather((seen, losses, time.perf_counter() - self._start))
        self._reset()
        if self.trainer.sanity_checking:
            return
        # Once, while the others wait: were the ranks to differ in a digit, they could disagree about the best.
        figures = self._figures(shares) if self.trainer.is_global_zero else ({}, {})
        self.figures, self.losses = self.trainer.strategy.broadcast(figures)
        overall = {f"val/{name}": value for name, value in self.figures.items() if "/" not in name}
        self.log_dict(overall, batch_size=1)
        if self.trainer.state.fn == TrainerFn.FITTING:
            said = ", ".join(f"{name} {self.figures[name]:.3f}" for name in self.headline)
            log.info("epoch %d: %s, validation loss %.3f", self.current_epoch, said, self.figures["loss"])

    def _figures(self, shares: Sequence[Share]) -> tuple[dict[str, float], dict[str, float]]:
        """Every figure by name, and those that are losses, from what each rank has seen."""
        rows = np.unique(np.concatenate([np.array(seen, dtype=np.int64) for seen, _, _ in shares]))
        names = dict.fromkeys(name for _, losses, _ in shares for name in losses)
        means = {name: sum(losses.get(name, 0.0) for _, losses, _ in shares) / len(rows) for name in names}
        speed = len(rows) / max(seconds for _, _, seconds in shares)
        return {**self.measure(rows), **means, "images_per_second": speed}, means

    @staticmethod
    @abstractmethod
    def table(figures: Mapping[str, float]) -> str:
        """The figures for a terminal."""

    # Checkpoints

    def describe(self) -> dict[str, Any]:
        """What a checkpoint says about itself, in plain values: enough to evaluate and predict with nothing else."""
        return {
            "format": FORMAT,
            "model": to_config(self.model),
            "data": self.data_recipe,
            **self.model.metadata(),
            "config": self.config,
            "metrics": self.figures,
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["detseg"] = self.describe()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint.update(translate_checkpoint(checkpoint))
        about = checkpoint.get("detseg", {})
        classes = about.get("classes", list(self.class_names))
        if classes != list(self.class_names):
            raise CheckpointError(
                f"the checkpoint knows {', '.join(classes)}, but the data has {', '.join(self.class_names)}; "
                "a training is resumed on the data that it began with"
            )
        before, now = (config.get("task", {}) for config in (about.get("config", {}), self.config))
        if before:
            before = {"backbone_lr_factor": 1.0, **before}
            self.backbone_lr_factor = before["backbone_lr_factor"]  # by which the optimizer has one group or two
        for name in ("lr", "backbone_lr_factor", "momentum", "weight_decay"):
            if name in before and name in now and before[name] != now[name]:
                log.warning(
                    "task.%s: %s is not used: a training that is resumed goes on with its own, %s; "
                    "begin a new one to change it",
                    *(name, now[name], before[name]),
                )


Share = tuple[list[int], dict[str, float], float]  # of a rank: rows seen, sums of losses, seconds


def _gather(share: Share) -> list[Share]:
    """The shares of all ranks. Every rank must call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return [share]
    shares: list[Share] = [share] * dist.get_world_size()
    dist.all_gather_object(shares, share)
    return shares
