"""The task: its figures, its learning rate, what it does with bad losses, several ranks and averaged weights."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.testing import assert_close

from detseg import checkpoint
from detseg.callbacks import BestCheckpoint, LastCheckpoint, PredictionImages, exponential_moving_average
from detseg.errors import CheckpointError, ConfigError, DetsegError
from detseg.inference.predictor import Predictor
from detseg.models import FasterRCNN, FastRCNN
from detseg.models.fast_rcnn import FastRCNNHeads
from detseg.modules import FPN, RPN, BalancedSampler, RoIHeads, TwoMLPHead
from detseg.modules.backbones import ResNet
from detseg.structures import Batch
from detseg.tasks import DetectionTask, OptimizerConfig, ScheduleConfig
from tests.colours import ColourDetector, ColourMaskDetector, colours, write_colours
from tests.ranks import on_two_ranks
from tests.training import QUIET


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colours(tmp_path_factory.mktemp("colours"))


class Rates(Callback):
    """Notes the learning rate of every step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def rates(root: Path, trainer: dict[str, Any], batch_size: int = 2, **arguments: Any) -> list[float]:
    """The learning rates of a training on 4 images."""
    noted = Rates()
    task = DetectionTask(ColourDetector(), **arguments)
    Trainer(**QUIET, callbacks=[noted], **trainer).fit(task, colours(root, batch_size=batch_size))
    return noted.seen


def test_perfect_detections_have_perfect_figures(root: Path) -> None:
    task = DetectionTask(ColourDetector())
    Trainer(**QUIET).validate(task, colours(root), verbose=False)
    assert {task.metric_values[name] for name in ("AP", "AP50", "AP/red", "VOC07_AP", "VOC10_AP/blue")} == {1.0}
    # 3 images in batches of 2 and 1: means are over images, and the total is the sum of the losses
    assert task.metric_values["constant"] == pytest.approx(2)
    assert task.metric_values["loss"] == pytest.approx(task.metric_values["colour"] + 2)
    assert task.metric_values["images_per_second"] > 0
    assert task.detections is not None
    assert len(task.detections.scores) == 1 + 2 + 3


def test_perfect_masks_have_perfect_figures(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    task, data = DetectionTask(ColourMaskDetector()), colours(root, masks="all")
    Trainer(**QUIET, max_epochs=1).fit(task, data)
    assert {task.metric_values[name] for name in ("AP", "mask_AP", "mask_AP50", "mask_AP/red")} == {1.0}
    assert task.detections is not None
    assert task.detections.masks is not None
    assert len(task.detections.masks) == 6
    assert "masks: AP 100.0, AP50 100.0" in task.format_table(task.metric_values)
    assert task.monitor_metrics[0] == "mask_AP"
    found = Predictor(task.model)(root / "val")[0]
    assert found.image_size == (64, 64)
    x1, y1, x2, y2 = found.boxes[0].astype(int)
    mask = found.masks[0]
    assert mask[y1:y2, x1:x2].all()
    assert mask.sum() == (x2 - x1) * (y2 - y1)


def test_a_network_that_learns_from_masks_needs_them(root: Path) -> None:
    with pytest.raises(ConfigError, match='ColourMaskDetector learns from masks: build the data with masks="all"'):
        Trainer(**QUIET, max_epochs=1).fit(DetectionTask(ColourMaskDetector()), colours(root))


def test_validation_losses_are_means_over_images(root: Path) -> None:
    batches = list(colours(root, batch_size=1).val_dataloader())
    expected = sum(float((batch.images.float().mean(dim=(2, 3)) / 255).square().sum()) for batch in batches) / 3
    task = DetectionTask(ColourDetector())
    Trainer(**QUIET).validate(task, colours(root, batch_size=2), verbose=False)
    assert task.metric_values["colour"] == pytest.approx(expected, rel=1e-5)


def test_limited_validation_measures_the_images_it_saw(root: Path) -> None:
    task = DetectionTask(ColourDetector())
    Trainer(**QUIET, limit_val_batches=1).validate(task, colours(root, batch_size=2), verbose=False)
    assert task.metric_values["AP"] == 1.0


def test_learning_rate_is_scaled_to_the_images_of_a_step(root: Path) -> None:
    # 2 images x 2 accumulated of 16, no warm-up
    seen = rates(root, {"max_epochs": 1, "accumulate_grad_batches": 2}, lr=0.4, schedule=ScheduleConfig(warmup_steps=0))
    assert seen == pytest.approx([0.4 * 4 / 16] * 2)


def test_warmup_ends_with_the_first_epoch_and_milestones_are_epochs(root: Path) -> None:
    schedule = ScheduleConfig(milestones=[2, 3])
    seen = rates(root, {"max_epochs": 4}, batch_size=1, lr=16.0, schedule=schedule)  # 4 steps an epoch
    rise = [0.001 + 0.999 * step / 4 for step in range(4)]
    assert seen == pytest.approx([*rise, *[1.0] * 4, *[0.1] * 4, *[0.01] * 4])


def test_plateau_lowers_the_rate_when_ap_stays(root: Path) -> None:
    schedule = ScheduleConfig("plateau", warmup_steps=2)
    seen = rates(root, {"max_epochs": 6}, batch_size=2, lr=8.0, schedule=schedule)  # 2 steps an epoch
    assert seen == pytest.approx([0.001, 0.5005, *[1.0] * 8, *[0.1] * 2])


def test_cosine_needs_an_end(root: Path) -> None:
    with pytest.raises(ConfigError, match="needs an end"):
        rates(root, {"max_epochs": -1}, schedule=ScheduleConfig("cosine"))


def test_a_training_may_count_steps_instead_of_epochs(root: Path) -> None:
    seen = rates(root, {"max_epochs": -1, "max_steps": 3}, lr=8.0, schedule=ScheduleConfig(warmup_steps=0))
    assert seen == pytest.approx([1.0] * 3)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: DetectionTask(ColourDetector(), lr=-1.0), "lr"),
        (lambda: DetectionTask(ColourDetector(), reference_batch=0), "reference_batch"),
        (lambda: OptimizerConfig(backbone_lr_factor=-0.1), "optimizer.backbone_lr_factor"),
        (lambda: ScheduleConfig(warmup_steps=-5), "schedule.warmup_steps"),
        (lambda: OptimizerConfig(weight_decay=-1.0), "optimizer.weight_decay"),
        (lambda: OptimizerConfig(momentum=-1.0), "optimizer.momentum"),
    ],
)
def test_values_that_make_no_sense(make: Callable[[], object], name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}: -?\d.* must be at least"):
        make()


def test_adamw_is_there(root: Path) -> None:
    task = DetectionTask(ColourDetector(), optimizer=OptimizerConfig("adamw"))
    trainer = Trainer(**QUIET, fast_dev_run=True)
    trainer.fit(task, colours(root))
    assert isinstance(trainer.optimizers[0], torch.optim.AdamW)


def test_backbone_may_learn_more_slowly_than_what_is_built_on_it(root: Path) -> None:
    """A step of SGD is the gradient times the rate; the layers of the pyramid are new, and go with the rest."""
    steps = []
    for factor in (1.0, 0.125):
        seed_everything(0, verbose=False)
        model = FasterRCNN(FPN(ResNet("resnet18", stages=[3, 4]), 16), 3, roi_heads=RoIHeads(box_head=TwoMLPHead(16)))
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        task = DetectionTask(
            model,
            lr=16.0,
            optimizer=OptimizerConfig(weight_decay=0.0, backbone_lr_factor=factor),
            schedule=ScheduleConfig(warmup_steps=0),
        )
        Trainer(**QUIET, max_steps=1, limit_val_batches=0).fit(task, colours(root, batch_size=1))
        steps.append({name: parameter.detach() - before[name] for name, parameter in model.named_parameters()})
    for name, step in steps[0].items():
        slower = name.startswith("backbone.backbone.")
        torch.testing.assert_close(steps[1][name], step / 8 if slower else step, rtol=1e-3, atol=1e-6, msg=name)
    assert all(
        any(step.abs().max() > 1e-3 for name, step in steps[0].items() if name.startswith(part))
        for part in ("backbone.backbone.", "backbone.lateral_convs.", "roi_heads.")
    )


def test_frozen_parts_stay_frozen_in_training(root: Path) -> None:
    """Mixed precision, clipping and accumulation by Lightning; statistics of frozen batch norm do not move."""
    model = FasterRCNN(
        FPN(ResNet("resnet18", frozen=2, norm="batch"), 16),
        3,
        RPN(post_nms_top_n=(20, 20)),
        RoIHeads(box_head=TwoMLPHead(16), sampler=BalancedSampler(8, 0.25)),
    )
    task = DetectionTask(model, lr=0.1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = Trainer(
        **QUIET,
        max_epochs=1,
        precision="bf16-mixed",
        gradient_clip_val=1.0,
        accumulate_grad_batches=2,
        deterministic=True,
    )
    trainer.fit(task, colours(root, batch_size=1))
    assert not model.backbone.backbone.bn1.training
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    frozen = {
        name
        for name in before
        if name.startswith(tuple(f"backbone.backbone.{block}" for block in ("conv1", "bn1", "layer1")))
    }
    assert frozen
    assert not changed & frozen
    assert any(name.startswith("backbone.backbone.layer2") and "running" in name for name in changed)


class Spoiling(ColourDetector):
    """Of its ``bad`` steps the loss is infinite, or (``only_gradient``) its gradient is not a number."""

    def __init__(self, *bad: int, only_gradient: bool = False) -> None:
        super().__init__()
        self.bad, self.only_gradient = bad, only_gradient
        self.seen: list[tuple[int, Tensor]] = []  # image and mean colour of each step

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        losses = super().loss(batch)
        if self.training:
            self.seen.append((int(batch.image_index[0]), batch.images[0].float().mean(dim=(1, 2)) / 255))
            if len(self.seen) - 1 in self.bad:
                zero = self.weight.sum() * 0
                losses["bad"] = zero.sqrt() if self.only_gradient else zero + float("inf")
        return losses


def fit_spoiling(root: Path, folder: Path, model: Spoiling, clip: float | None = None, **settings: Any) -> None:
    """Train on 4 images, one in a step, with a learning rate of 0.1, a momentum of 0.9 and a decay of 0.01."""
    task = DetectionTask(
        model,
        lr=0.1,
        reference_batch=1,
        optimizer=OptimizerConfig(momentum=0.9, weight_decay=0.01),
        schedule=ScheduleConfig("constant", warmup_steps=0),
        **settings,
    )
    quiet = {**QUIET, "num_sanity_val_steps": 0, "limit_val_batches": 0, "gradient_clip_val": clip}
    Trainer(**quiet, max_epochs=1, default_root_dir=folder).fit(task, colours(root, batch_size=1))


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize(("only_gradient", "name"), [(False, "loss"), (True, "gradient of the loss")])
@pytest.mark.parametrize("bad", [(0,), (1,), (3,), (0, 2)])  # the first, followed by another, the last of the epoch
def test_a_step_that_is_not_finite_is_left_out(root, tmp_path, bad, only_gradient, name, clip, caplog) -> None:
    model = Spoiling(*bad, only_gradient=only_gradient)
    fit_spoiling(root, tmp_path, model, clip)
    weight, momentum = torch.zeros(3), torch.zeros(3)
    for step, (_, colour) in enumerate(model.seen):
        if step not in bad:
            gradient = 2 * (weight - colour)
            gradient *= min(1.0, clip / float(gradient.norm() + 1e-6)) if clip else 1.0
            momentum = 0.9 * momentum + gradient + 0.01 * weight
            weight = weight - 0.1 * momentum
    assert len(model.seen) == 4
    assert_close(model.weight.detach(), weight)
    records = [json.loads(line) for line in (tmp_path / "bad_steps.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(bad)
    for record in records:
        path = str(colours(root).path("train", model.seen[record["step"]][0]))
        assert record["images"] == [path]
        assert record["losses"]["bad"] == ("0" if only_gradient else "inf")
        assert len(record["seeds"]) == 1
        assert f"the {name} is not finite in step {record['step']}: " in caplog.text
        assert path in caplog.text


class Normed(ColourDetector):
    """Batch norm of images of which the one of step 1 is not finite, and so is its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.means: list[Tensor] = []

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        images = batch.images.float()
        if not self.training:
            return super().loss(batch)
        self.means.append(images.mean(dim=(0, 2, 3)))
        return {"norm": self.norm(images / 0 if len(self.means) == 2 else images).sum() + self.weight.sum()}


def test_statistics_of_a_step_that_is_not_finite_are_not_taken(root, tmp_path) -> None:
    model = Normed()
    fit_spoiling(root, tmp_path, model)
    mean = torch.zeros(3)
    for step, batch in enumerate(model.means):
        mean = mean if step == 1 else 0.9 * mean + 0.1 * batch
    assert_close(model.norm.running_mean, mean)
    assert model.norm.running_var.isfinite().all()


@pytest.mark.parametrize(("bad", "limit"), [((0, 1), 2), ((1, 2, 3), 3), ((0, 3), 1)])
def test_training_stops_after_too_many_steps_that_are_not_finite(root, tmp_path, bad, limit) -> None:
    model = Spoiling(*bad)
    with pytest.raises(DetsegError, match=r"bad inf; the images were .*train\d\.png.*`max_bad_steps`") as caught:
        fit_spoiling(root, tmp_path, model, max_bad_steps=limit)
    assert f"in step {bad[limit - 1]}: " in str(caught.value)
    assert str(tmp_path / "bad_steps.jsonl") in str(caught.value)


def spoil_one_rank(folder: Path, root: Path) -> None:
    model = Spoiling(*([1] if os.environ["RANK"] == "1" else []))
    task = DetectionTask(model, lr=0.1, reference_batch=2)
    settings = {**QUIET, "num_sanity_val_steps": 0, "limit_val_batches": 0}
    trainer = Trainer(**settings, devices=2, max_epochs=2, default_root_dir=folder)
    trainer.fit(task, colours(root, batch_size=1))
    torch.save(model.weight.detach(), folder / f"rank{trainer.global_rank}.pt")


def test_all_ranks_leave_out_a_step_that_is_not_finite_on_one(root: Path, tmp_path: Path) -> None:
    on_two_ranks(spoil_one_rank, tmp_path, root)
    one, other = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert torch.equal(one, other)
    assert one.isfinite().all()
    records = [json.loads(line) for line in (tmp_path / "bad_steps.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 1]
    assert {(record["rank"], record["losses"].get("bad")) for record in records} == {(0, None), (1, "inf")}


def test_data_must_be_whole(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"trainer.fit\(task, data\)"):
        Trainer(**QUIET, max_epochs=1).fit(DetectionTask(ColourDetector()), colours(root).train_dataloader())


def test_classes_of_network_and_data_must_agree(root: Path) -> None:
    with pytest.raises(ConfigError, match="5 classes, but the data 3"):
        Trainer(**QUIET, max_epochs=1).fit(DetectionTask(ColourDetector(5)), colours(root))
    task = DetectionTask(ColourDetector())
    task.model.class_names = ("red", "green", "violet")
    with pytest.raises(ConfigError, match="violet"):
        Trainer(**QUIET, max_epochs=1).fit(task, colours(root))


def test_no_detection_is_explained(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    Trainer(**QUIET).validate(DetectionTask(ColourDetector(blunder=30.0)), colours(root), verbose=False)
    assert "6 predictions (2.0 per image)" in caplog.text
    assert "red" in caplog.text
    assert "IoU of" in caplog.text


class Draws(ColourDetector):
    """Its loss is random, like that of every detector that samples."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {**super().loss(batch), "drawn": torch.rand(())}


def test_validation_draws_the_same_each_time_and_nothing_from_training(root: Path) -> None:
    figures = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        expected = torch.rand(3)
        torch.manual_seed(seed)
        task = DetectionTask(Draws())
        Trainer(**QUIET).validate(task, colours(root), verbose=False)
        assert torch.equal(torch.rand(3), expected)
        figures.append(task.metric_values["drawn"])
    assert figures[0] == figures[1]


@pytest.mark.parametrize(("every", "epochs"), [(3, 4), (5, 2)])
def test_the_last_checkpoint_is_of_the_last_epoch(root: Path, tmp_path: Path, every: int, epochs: int) -> None:
    settings = {**QUIET, "enable_checkpointing": True, "max_epochs": epochs, "check_val_every_n_epoch": every}
    callbacks = [BestCheckpoint(tmp_path), LastCheckpoint(tmp_path)]
    Trainer(**settings, callbacks=callbacks).fit(DetectionTask(ColourDetector()), colours(root))
    assert checkpoint.read(tmp_path / "last.ckpt")["epoch"] == epochs - 1
    assert (tmp_path / "best.ckpt").exists() == (every <= epochs)


def test_what_no_checkpoint_can_describe_is_said_before_training(root: Path) -> None:
    with pytest.raises(TypeError, match="cannot describe a set"):
        Trainer(**QUIET, fast_dev_run=True).fit(DetectionTask(ColourDetector(losses={1})), colours(root))  # type: ignore[arg-type]


def test_averaged_weights_are_validated_saved_and_loaded(root: Path, tmp_path: Path) -> None:
    class Watch(Callback):
        validated: list[Tensor]
        trained: list[Tensor]

        def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
            self.trained = [module.model.weight.detach().clone()]

        def on_validation_batch_end(self, trainer: Trainer, module: LightningModule, *_: object) -> None:
            self.validated = [module.model.weight.detach().clone(), module.model.constants.clone()]

    watch = Watch()
    model = ColourDetector()
    constants = torch.randn(1000)
    model.register_buffer("constants", constants.clone(), persistent=False)  # as anchors
    task = DetectionTask(model, lr=1.0, schedule=ScheduleConfig(warmup_steps=0))
    settings = {**QUIET, "enable_checkpointing": True}
    ema = exponential_moving_average(decay=0.9)
    Trainer(**settings, max_epochs=2, callbacks=[LastCheckpoint(tmp_path), ema, watch]).fit(task, colours(root))
    content = checkpoint.read(tmp_path / "last.ckpt")
    averaged, current = (content[key]["model.weight"] for key in ("state_dict", "current_model_state"))
    assert torch.equal(watch.validated[0], averaged)
    assert torch.equal(watch.validated[1], constants)
    assert torch.equal(watch.trained[0], current)
    assert not torch.equal(averaged, current)
    assert torch.equal(checkpoint.load(tmp_path / "last.ckpt").model.weight, averaged)
    assert content["detseg"]["run"]["weights"] == "ema"
    with pytest.raises(CheckpointError, match="weights is raw, was ema"):
        Trainer(**QUIET).fit(DetectionTask(ColourDetector()), colours(root), ckpt_path=tmp_path / "last.ckpt")


def test_five_lines_of_python(root: Path, tmp_path: Path) -> None:
    data = colours(root)
    task = DetectionTask(ColourDetector(data.num_classes))
    Trainer(**QUIET, max_epochs=1).fit(task, data)
    found = Predictor(task.model)(root / "val", threshold=0.6)
    assert [prediction.path.name for prediction in found] == ["val0.png", "val1.png", "val2.png"]
    assert found[0].names == ["red"]


def test_prediction_makes_the_proposals_that_a_network_needs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detseg.proposals.selective_search.LONG_EDGE", 128)
    data = colours(root)
    heads = FastRCNNHeads(box_head=TwoMLPHead(8))
    task = DetectionTask(FastRCNN(ResNet("resnet18", stages=[3]), data.num_classes, heads))
    task.model.preprocessing = data.preprocessing
    found = Predictor(task.model)(root / "val", threshold=0.0)
    assert [prediction.path.name for prediction in found] == ["val0.png", "val1.png", "val2.png"]
    assert all(len(prediction.boxes) for prediction in found)


def test_a_resumed_training_is_the_same_training(root: Path, tmp_path: Path) -> None:
    def fit(folder: Path, epochs: int, resumed: Path | None = None) -> tuple[DetectionTask, Trainer, list[float]]:
        noted = Rates()
        settings = {**QUIET, "enable_checkpointing": True, "max_epochs": epochs}
        trainer = Trainer(**settings, callbacks=[BestCheckpoint(folder), LastCheckpoint(folder), noted])
        task = DetectionTask(ColourDetector(), lr=4.0, schedule=ScheduleConfig(milestones=[2], warmup_steps=1))
        trainer.fit(task, colours(root), ckpt_path=resumed, weights_only=True)
        return task, trainer, noted.seen

    whole, trainer, seen = fit(tmp_path / "whole", 4)
    fit(tmp_path / "parts", 2)
    resumed, second, rest = fit(tmp_path / "parts", 4, tmp_path / "parts" / "last.ckpt")
    assert rest == pytest.approx(seen[4:])
    assert (second.current_epoch, second.global_step) == (trainer.current_epoch, trainer.global_step) == (4, 8)
    assert torch.equal(whole.model.weight, resumed.model.weight)


def test_a_resumed_training_says_that_it_keeps_its_learning_rate(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {**QUIET, "enable_checkpointing": True, "callbacks": [LastCheckpoint(tmp_path)]}
    for epochs, lr in ((1, 0.5), (2, 0.001)):
        task = DetectionTask(ColourDetector(), lr=lr)
        task.config = {"task": {"lr": lr, "optimizer": {"momentum": 0.9}}}
        resumed = tmp_path / "last.ckpt" if epochs > 1 else None
        Trainer(**settings, max_epochs=epochs).fit(task, colours(root), ckpt_path=resumed, weights_only=True)
    assert "lr: 0.001 is not used" in caplog.text
    assert "its own value, 0.5" in caplog.text
    assert "momentum" not in caplog.text


@pytest.mark.parametrize(("before", "now"), [(None, 0.1), (0.1, 1.0), (1.0, 0.1)])
def test_a_resumed_training_keeps_the_rate_of_its_backbone(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, before: float | None, now: float
) -> None:
    """Also one from before there was such a setting."""
    settings = {**QUIET, "enable_checkpointing": True, "callbacks": [LastCheckpoint(tmp_path)]}
    rates = []
    for epochs, factor in ((1, before), (2, now)):
        model = ColourDetector()
        model.backbone = torch.nn.Linear(1, 1)
        settings_of_task = {} if factor is None else {"backbone_lr_factor": factor}
        task = DetectionTask(model, lr=0.5, optimizer=OptimizerConfig(**settings_of_task))
        task.config = {"task": {"lr": 0.5, "optimizer": settings_of_task}}
        resumed = tmp_path / "last.ckpt" if epochs > 1 else None
        trainer = Trainer(**settings, max_epochs=epochs)
        trainer.fit(task, colours(root), ckpt_path=resumed, weights_only=True)
        rates.append([group["initial_lr"] for group in trainer.optimizers[0].param_groups])
    assert rates[1] == rates[0]
    assert len(rates[0]) == (2 if before == 0.1 else 1)
    assert f"backbone_lr_factor: {now} is not used" in caplog.text


def test_a_training_is_not_resumed_on_other_classes(root: Path, tmp_path: Path) -> None:
    settings = {**QUIET, "enable_checkpointing": True, "max_epochs": 1}
    Trainer(**settings, callbacks=[LastCheckpoint(tmp_path)]).fit(DetectionTask(ColourDetector()), colours(root))
    data = colours(root)
    data.use_classes(["red", "green", "violet"])
    with pytest.raises(CheckpointError, match="violet"):
        Trainer(**settings).fit(
            DetectionTask(ColourDetector()), data, ckpt_path=tmp_path / "last.ckpt", weights_only=True
        )


def measure(folder: Path, roots: list[Path]) -> None:
    """Write the figures of each data set to a file of its name, and pictures."""
    trainer = Trainer(**QUIET, devices=2, callbacks=[PredictionImages()], default_root_dir=folder)
    for root in roots:
        task = DetectionTask(ColourMaskDetector(blunder=1.0))
        trainer.validate(task, colours(root, masks="all"), verbose=False)
        if trainer.is_global_zero:
            (folder / f"{root.name}.json").write_text(json.dumps(task.metric_values))


def test_two_ranks_measure_what_one_does(tmp_path: Path) -> None:
    """To the last bit: with an odd number of images, a rank without objects, and a rank without images."""
    sets = {"odd": {"val": 7}, "objects_on_one_rank": {"val": 8, "empty": 4}, "one_image": {"val": 1}}
    roots = [write_colours(tmp_path / name, train=2, **counts) for name, counts in sets.items()]
    on_two_ranks(measure, tmp_path, roots)
    for root in roots:
        task = DetectionTask(ColourMaskDetector(blunder=1.0))
        Trainer(**QUIET).validate(task, colours(root, masks="all"), verbose=False)
        together = json.loads((tmp_path / f"{root.name}.json").read_text())
        average_precision = {name for name in together if name.startswith(("AP", "AR_", "VOC", "mask_"))}
        assert len(average_precision) > 35
        # nan, where there is nothing to find, differs from itself; its text does not
        alone = {name: str(task.metric_values[name]) for name in average_precision}
        assert {name: str(together[name]) for name in average_precision} == alone
        assert 0 < task.metric_values["AP"] < 1
        assert together["loss"] == pytest.approx(task.metric_values["loss"])
    assert (tmp_path / "pictures" / "val0.jpg").is_file()
