"""Train R-CNN in three consecutive stages (Girshick et al. 2014, section 2.3 and appendix C)."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torchmetrics import Metric

from detseg.errors import CheckpointError, ConfigError
from detseg.models import RCNN
from detseg.models.detector import require_proposals
from detseg.modules.box_head import class_loss
from detseg.modules.eval_mode import eval_mode
from detseg.ops.linear import ridge
from detseg.progress import progress
from detseg.structures import Batch, drop_padding, rescale
from detseg.tasks.detection import DetectionTask
from detseg.tasks.hard_negatives import fit_svms
from detseg.tasks.optimization import OptimizerConfig, ScheduleConfig
from detseg.tasks.region_features import RegionFeatures, check_room, describe, extract, image_name, scale_of

log = logging.getLogger(__name__)

RIDGE = 1000.0  # lambda of the regressors (appendix C)


class RCNNTask(DetectionTask):
    """Train and evaluate R-CNN: ``Trainer(...).fit(task, data)``, then ``task.finish(folder)``.

    The epochs fine-tune the network on single regions; their validations measure the ``accuracy`` of the softmax on
    regions drawn as for training, since all those of an image are thirty times as many. ``finish`` then computes the
    features of all regions of the training images, and keeps them in ``folder`` as long as they are needed, in at most
    ``features_gib``; fits a support vector machine and a regressor for each class, as far as the network uses them; and
    evaluates the result. After an interruption, calling it again continues.

    The other settings are those of ``Task``. The learning rate and the 128 regions of a step are the paper's (section
    2.3). The milestones are meant for 20 epochs of VOC 2007, which are 50,000 steps (section 4.3, for ILSVRC): a tenth
    of the learning rate after 20,000, and a tenth of that after 40,000, as in the authors' solver. After an evaluation
    the figures have the seconds an image that proposals, network and head take.

    Raises ConfigError for several devices, and before the first epoch if the features would take more than
    ``features_gib``; DataError if there is no object to learn from. The free space of the disk is not checked.
    """

    def __init__(
        self,
        model: RCNN,
        metrics: Sequence[Metric] | None = None,
        lr: float = 0.001,
        reference_batch: int = 2,
        optimizer: OptimizerConfig = OptimizerConfig(weight_decay=5e-4),  # noqa: B008 - frozen
        schedule: ScheduleConfig = ScheduleConfig(milestones=(8, 16), warmup_steps=0),  # noqa: B008 - frozen
        features_gib: float = 100.0,
        **settings: Any,
    ) -> None:
        super().__init__(
            model,
            metrics,
            lr=lr,
            reference_batch=reference_batch,
            optimizer=optimizer,
            schedule=schedule,
            **settings,
        )
        self.features_gib = features_gib
        self._correct: list[Tensor] = []  # of the sampled regions
        self._seconds: dict[str, float] = defaultdict(float)
        self._images = 0  # evaluated in these seconds

    @property
    def monitor_metrics(self) -> tuple[str, ...]:
        return ("accuracy",)

    @property
    def monitor_mode(self) -> Literal["min", "max"]:
        return "max"

    def on_fit_start(self) -> None:
        if self.trainer.world_size > 1:
            raise ConfigError(f"trainer.devices {self.trainer.world_size}: R-CNN trains on one")
        if self._stages:
            check_room(self.model, self.data, self.features_gib)

    # After the last step

    def finish(self, folder: Path) -> bool:
        if self._stages:
            files = RegionFeatures(folder / "features", describe(self.model, self.data, self.trainer.precision))
            self._fit(files)
            for name in self._stages:
                layer = {"svms": self.model.svms, "regressors": self.model.bbox_pred}[name]
                weight, bias = files.read(name, "weight", "bias")
                layer.weight.copy_(weight)
                layer.bias.copy_(bias)
        self.trainer.validate(self, self.data, verbose=False)
        return True

    @property
    def _stages(self) -> list[str]:
        """The stages that follow the epochs."""
        return ["svms"] * (self.model.scores == "svm") + ["regressors"] * self.model.box_regression

    def _fit(self, files: RegionFeatures) -> None:
        """Write the missing ones of ``svms`` and ``regressors``."""
        missing = [name for name in self._stages if name not in files]
        device, count = self.trainer.strategy.root_device, len(self.data.train_annotations)
        if missing:
            with self._timed("features"), eval_mode(self.model), self.trainer.precision_plugin.forward_context():
                extract(self.model.to(device), self.data, files, device)
        if "svms" in missing:
            with self._timed("support vector machines"):
                fit_svms(files, count, self.class_names)
        if "regressors" in missing:
            with self._timed("regressors"):
                fit_regressors(files, count, self.class_names)
        files.remove(count)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        log.info("%s ...", stage)
        start = time.perf_counter()
        yield
        log.info("%s: %.1f seconds", stage, time.perf_counter() - start)

    # Validation

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._correct.clear()
        self._seconds.clear()
        self._images = 0
        if not self._fine_tuning:
            self._check_complete()

    def validate(self, batch: Batch) -> tuple[dict[str, Tensor], Any]:
        if self._fine_tuning:
            logits, labels, valid = self.model.classify(batch)
            self._correct.append((logits.argmax(dim=1) == labels)[valid].float())
            return {"loss_classifier": class_loss(logits, labels, valid)}, None
        if self.predictor:
            return super().validate(batch)
        targets = self.targets(batch)
        losses = self.model.loss(batch)
        start = self._now()
        regions = drop_padding(require_proposals(batch.proposals, "R-CNN"))
        features = self.model.features(batch.images, batch.image_sizes, regions)
        middle = self._now()
        detections = self.model.detect(features, regions, batch.image_sizes)
        self._images += len(batch.images)
        self._seconds["cnn"] += middle - start
        self._seconds["head"] += self._now() - middle
        self.update_metrics(rescale(detections, batch.image_sizes, batch.original_sizes), targets)
        return losses, {"detections": detections}

    def compute_metrics(self) -> dict[str, float]:
        if self._fine_tuning:
            return {"accuracy": float(torch.cat(self._correct).mean())}
        if self.predictor:
            return super().compute_metrics()
        proposals = self.data.dataset("val").proposals.seconds()
        means = {name: seconds / self._images for name, seconds in self._seconds.items()}
        seconds = {f"seconds_{name}": value for name, value in {"proposals": proposals, **means}.items()}
        log.info("seconds per image: " + ", ".join(f"{name[8:]} {value:.3f}" for name, value in seconds.items()))
        return {**super().compute_metrics(), **seconds}

    @property
    def _fine_tuning(self) -> bool:
        return self.trainer.state.fn == TrainerFn.FITTING

    def _check_complete(self) -> None:
        if not self.model.complete:
            raise CheckpointError(
                "this R-CNN is only fine-tuned: the stages after the last epoch are missing; resume the training"
            )

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def fit_regressors(files: RegionFeatures, images: int, classes: Sequence[str]) -> None:
    """Write ``regressors``, the ``weight`` (4K, E) and ``bias`` (4K,) of each class (appendix C).

    A proposal is a sample of the object that it overlaps most. Boxes of a class without samples are not changed. An
    interrupted call continues with the next class.
    """
    classes_of = [files.read(image_name(image), "classes")[0] for image in range(images)]
    scale = scale_of(files, images, "grid")
    width = files.read(image_name(0), "grid")[0].shape[1]
    weight, bias, done = torch.zeros(len(classes), 4, width), torch.zeros(len(classes), 4), 0
    if "regression" in files:
        weight, bias, before = files.read("regression", "weight", "bias", "done")
        done = int(before)
    with progress(done, len(classes), "regressors", "classes") as advance:
        for c in range(done, len(classes)):
            shown = [image for image in range(images) if (classes_of[image] == c).any()]
            if shown:
                near = ((classes_of[image] == c, *files.read(image_name(image), "grid", "deltas")) for image in shown)
                parts = ((scale * grid[mask].float(), deltas[mask]) for mask, grid, deltas in near)
                weight[c], bias[c] = ridge(parts, RIDGE)
                weight[c] *= scale
            files.write("regression", {"weight": weight, "bias": bias, "done": torch.tensor(c + 1)})
            advance()
    files.write("regressors", {"weight": weight.flatten(0, 1), "bias": bias.flatten()})
