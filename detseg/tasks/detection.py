"""Training and evaluating a detector with Lightning."""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, ReduceLROnPlateau

from detseg.data import DetectionData
from detseg.errors import CheckpointError, ConfigError, DetsegError
from detseg.metrics import Collector, Detections
from detseg.models import Detector
from detseg.recipe import recipe
from detseg.structures import Batch, Instances, rescale
from detseg.tasks.figures import average_precision, explain_zero
from detseg.tasks.prediction import Prediction, predict
from detseg.tasks.schedules import DECAY, WARMUP_FACTOR, Schedule, learning_rate_factor

log = logging.getLogger(__name__)

FORMAT = 1  # of what a checkpoint says about itself; another number is another layout
PATIENCE = 3  # validations without a better AP, after which "plateau" lowers the learning rate


class Detection(LightningModule):
    """Train and evaluate a ``network`` on a ``DetectionData``: ``Trainer(...).fit(Detection(network), data)``.

    ``lr`` is the learning rate at ``reference_batch`` images a step, and is scaled in proportion to the images of the
    real step (Goyal et al. 2017, arXiv:1706.02677): batch size x devices x accumulated batches. It rises to that over
    the first ``warmup_steps``, the first epoch at most; then the ``schedule`` lowers it: tenfold after each of the
    ``milestones`` (epochs) with "step", to zero with "cosine", tenfold when AP no longer rises with "plateau".
    ``momentum`` is SGD's.

    After a validation ``figures`` holds the losses, the COCO and the VOC average precision by name, and ``detections``
    what was found, in pixels of the image files. ``classes`` and ``category_ids`` are those of the data.
    """

    def __init__(
        self,
        network: Detector,
        lr: float = 0.02,
        reference_batch: int = 16,
        optimizer: Literal["sgd", "adamw"] = "sgd",
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        schedule: Schedule = "step",
        milestones: Sequence[int] = (8, 11),
        warmup_steps: int = 1000,
    ) -> None:
        super().__init__()
        least = {"lr": (lr, 0), "weight_decay": (weight_decay, 0), "momentum": (momentum, 0)}
        least |= {"reference_batch": (reference_batch, 1), "warmup_steps": (warmup_steps, 0)}
        for name, (value, limit) in least.items():
            if value < limit:
                raise ConfigError(f"model.{name}: {value} must be at least {limit}")
        self.network = network.to(memory_format=torch.channels_last)  # as images arrive; no state changes by it
        self.lr, self.reference_batch = lr, reference_batch
        self.optimizer, self.momentum, self.weight_decay = optimizer, momentum, weight_decay
        self.schedule, self.milestones, self.warmup_steps = schedule, milestones, warmup_steps

        self.classes: tuple[str, ...] = ()
        self.category_ids: tuple[int, ...] = ()
        self.data_recipe: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.figures: dict[str, float] = {}
        self.detections: Detections | None = None
        self._collector = Collector()
        self._reset()

    @property
    def data(self) -> DetectionData:
        """The data that the trainer works on."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, DetectionData):
            raise ConfigError("a Detection needs its data as a whole, such as detseg.COCO: trainer.fit(task, data)")
        return data

    def setup(self, stage: str) -> None:
        data = self.data
        self.classes = self.classes or data.classes
        if data.classes != self.classes:
            raise ConfigError(
                f"the network was trained to find {', '.join(self.classes)}, the data has {', '.join(data.classes)}: "
                "data.use_classes(task.classes) matches them by name, or build a network for those of the data"
            )
        if data.num_classes != self.network.num_classes:
            raise ConfigError(
                f"the network has {self.network.num_classes} classes, but the data {data.num_classes}: "
                "build it with num_classes=data.num_classes"
            )
        if stage == "fit":
            self.category_ids, self.data_recipe = data.train_annotations.category_ids, recipe(data)
            self.describe()  # what no checkpoint can describe is said now, not after an epoch

    # Training

    def training_step(self, batch: Batch, index: int) -> Tensor:
        losses = self.network.loss(batch)
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            raise DetsegError(self._not_finite(losses, batch))
        named = {f"train/{name}": value.detach() for name, value in {"loss": total, **losses}.items()}
        self.log_dict(named, prog_bar=True, batch_size=len(batch.images))
        return total

    def _not_finite(self, losses: Mapping[str, Tensor], batch: Batch) -> str:
        values = ", ".join(f"{name} {value.item():g}" for name, value in losses.items())
        images = ", ".join(str(self.data.train_annotations.path(row)) for row in batch.rows.tolist())
        return (
            f"the loss is not finite in step {self.global_step}: {values}; the images were {images}. "
            "Look at their boxes; if they are sound, lower --model.lr or raise --model.warmup_steps"
        )

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
            validations = {"monitor": "val/AP", "frequency": self.trainer.check_val_every_n_epoch or 1}
            return [optimizer], [{"scheduler": rise, "interval": "step"}, {"scheduler": plateau, **validations}]  # type: ignore[return-value]
        milestones = [milestone * epoch for milestone in self.milestones]
        factor = learning_rate_factor(self.schedule, warmup, milestones, steps)
        return [optimizer], [{"scheduler": LambdaLR(optimizer, factor), "interval": "step"}]  # type: ignore[return-value]

    def _scaled_lr(self, warmup: int) -> float:
        trainer = self.trainer
        batch, devices, accumulated = self.data.batch_size, trainer.world_size, trainer.accumulate_grad_batches
        images = batch * devices * accumulated
        lr = self.lr * images / self.reference_batch
        log.info(
            "learning rate %g = %g x %d / %d: %d images a step (batch %d x %d devices x %d accumulated); "
            "it rises over the first %d steps",
            *(lr, self.lr, images, self.reference_batch, images, batch, devices, accumulated, warmup),
        )
        return lr

    def _optimizer(self, lr: float) -> Optimizer:
        parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        if self.optimizer == "adamw":
            return AdamW(parameters, lr, weight_decay=self.weight_decay)
        return SGD(parameters, lr, self.momentum, weight_decay=self.weight_decay)

    # Validation

    def on_validation_epoch_start(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._collector.reset()
        self._losses: dict[str, Tensor | float] = defaultdict(float)  # sums over the images
        self._seen: list[Tensor] = []  # rows of the images
        self._start = time.perf_counter()

    def validation_step(self, batch: Batch, index: int) -> dict[str, Instances] | None:
        if not len(batch.rows):  # the share of a process that has no image
            return None
        # The losses draw samples: the same ones each time, whatever the rank, and none of those that training draws.
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(int(batch.rows[0]))
            losses, found = self.network.validate(batch)
        for name, value in {"loss": torch.stack(list(losses.values())).sum(), **losses}.items():
            self._losses[name] += value * len(batch.rows)
        self._collector.add(batch.rows, rescale(found, batch.sizes, batch.original_sizes))
        self._seen.append(batch.rows)
        return {"detections": found}

    def on_validation_epoch_end(self) -> None:
        self.detections = self._collector.gather()
        seen = torch.cat(self._seen).tolist() if self._seen else []
        losses = {name: float(value) for name, value in self._losses.items()}
        shares = _gather((seen, losses, time.perf_counter() - self._start))
        self._reset()
        if self.trainer.sanity_checking:
            return
        # Once, while the others wait: were the ranks to differ in a digit, they could disagree about the best.
        figures = self._figures(shares) if self.trainer.is_global_zero else {}
        self.figures = self.trainer.strategy.broadcast(figures)
        overall = {f"val/{name}": value for name, value in self.figures.items() if "/" not in name}
        self.log_dict(overall, batch_size=1)
        if self.trainer.state.fn == TrainerFn.FITTING:
            headline = (self.figures[name] for name in ("AP", "AP50", "loss"))
            log.info("epoch %d: AP %.3f, AP50 %.3f, validation loss %.3f", self.current_epoch, *headline)

    def _figures(self, shares: Sequence[Share]) -> dict[str, float]:
        """Every figure by name, from what each rank has seen."""
        assert self.detections is not None
        rows = np.unique(np.concatenate([np.array(seen, dtype=np.int64) for seen, _, _ in shares]))
        names = dict.fromkeys(name for _, losses, _ in shares for name in losses)
        return {
            **average_precision(self.data.val_annotations, self.detections, rows),
            **{name: sum(losses.get(name, 0.0) for _, losses, _ in shares) / len(rows) for name in names},
            "images_per_second": len(rows) / max(seconds for _, _, seconds in shares),
        }

    def on_fit_end(self) -> None:
        self._explain()

    def on_validation_end(self) -> None:
        if self.trainer.state.fn != TrainerFn.FITTING:
            self._explain()

    def _explain(self) -> None:
        if self.figures.get("AP") == 0 and self.detections is not None and self.trainer.is_global_zero:
            log.warning(explain_zero(self.data.val_annotations, self.detections))

    # Checkpoints and use

    def describe(self) -> dict[str, Any]:
        """What a checkpoint says about itself, in plain values: enough to evaluate and predict with nothing else."""
        return {
            "format": FORMAT,
            "network": recipe(self.network),
            "data": self.data_recipe,
            "classes": list(self.classes),
            "category_ids": list(self.category_ids),
            "config": self.config,
            "metrics": self.figures,
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["detseg"] = self.describe()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        about = checkpoint.get("detseg", {})
        classes = about.get("classes", list(self.classes))
        if classes != list(self.classes):
            raise CheckpointError(
                f"the checkpoint knows {', '.join(classes)}, but the data has {', '.join(self.classes)}; "
                "a training is resumed on the data that it began with"
            )
        before, now = (config.get("model", {}) for config in (about.get("config", {}), self.config))
        for name in ("lr", "momentum", "weight_decay"):
            if name in before and name in now and before[name] != now[name]:
                log.warning(
                    "model.%s: %s is not used: a training that is resumed goes on with its own, %s; "
                    "begin a new one to change it",
                    *(name, now[name], before[name]),
                )

    def predict(self, images: str | Path | Iterable[str | Path], threshold: float = 0.5) -> Iterator[Prediction]:
        """Find objects with a score of at least ``threshold`` in image files: a path, a folder, a glob, or several."""
        return predict(self, images, threshold)


Share = tuple[list[int], dict[str, float], float]  # of a rank: rows seen, sums of losses, seconds


def _gather(share: Share) -> list[Share]:
    """The shares of all ranks. Every rank must call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return [share]
    shares: list[Share] = [share] * dist.get_world_size()
    dist.all_gather_object(shares, share)
    return shares
