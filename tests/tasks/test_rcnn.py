"""The three stages of R-CNN: what each learns from, and that they go on where they were killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from sklearn.linear_model import Ridge
from sklearn.svm import LinearSVC
from torch.testing import assert_close
from torchvision.ops import box_iou

from detseg import checkpoint, cli
from detseg.data import Resize
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.errors import CheckpointError, ConfigError, DataError, DetsegError
from detseg.inference.predictor import Predictor
from detseg.models import RCNN
from detseg.modules.backbones import SqueezeNet
from detseg.tasks import RCNNTask
from detseg.tasks.hard_negatives import ClassSVM, fit_svms
from detseg.tasks.rcnn import fit_regressors
from detseg.tasks.region_features import RegionFeatures, check_room, describe, extract, image_name
from tests.colours import colours, write_colours

CONFIG = """\
model:
  class_path: RCNN
  init_args:
    backbone:
      class_path: SqueezeNet
    crop_size: 36
    context: 2
    sampler:
      batch_size_per_image: 16
      positive_fraction: 0.25
    crops_per_batch: 1000
task:
  lr: 0.02
data:
  class_path: COCO
  init_args:
    root: colours
    proposals: proposals
    num_workers: 0
    transforms:
      - class_path: Resize
        init_args:
          size: 64
          max_size: 64
      - RandomHorizontalFlip
trainer:
  accelerator: cpu
  max_epochs: 2
  logger: false
"""

# Runs a training in one process after the other, each of them killed when it has written a file or begins an epoch.
KILLED = """\
import functools, os, signal, sys, time
from detseg import cli
from detseg.tasks import (RCNNTask, rcnn)
from detseg.tasks.region_features import RegionFeatures

rcnn.fit_svms = functools.partial(rcnn.fit_svms, refit_every=40)

def kill_after(owner, method, place):
    original = getattr(owner, method)
    def call(self, *arguments):
        result = original(self, *arguments)
        if place(self, *arguments):
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, method, call)

def note(owner, method, word):
    original = getattr(owner, method)
    def call(self, *arguments):
        with open("work", "a") as file:
            print(word(self, *arguments), file=file)
        return original(self, *arguments)
    setattr(owner, method, call)

def wait_for_last():
    while not os.path.exists("runs/killed/last.ckpt"):
        time.sleep(0.01)
    return True

def run(name, place, resume):
    child = os.fork()
    if not child:
        note(RCNNTask, "on_train_epoch_end", lambda self: f"{name} epoch {self.current_epoch}")
        note(RegionFeatures, "write", lambda self, file, tensors: f"{name} {file}")
        if place == "epoch":  # when the checkpoint of the one before is written, which takes a thread a moment
            kill_after(RCNNTask, "on_train_epoch_start", lambda self: self.current_epoch == 1 and wait_for_last())
        elif place:
            kill_after(RegionFeatures, "write", lambda self, file, tensors: file == place)
        cli.main(["train", "--config", "small.yaml", "--name", name, *(["--resume", "last"] if resume else [])])
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    print(name, place, os.WTERMSIG(status) if os.WIFSIGNALED(status) else f"ended {os.WEXITSTATUS(status)}", flush=True)

run("unbroken", "", False)
for step, place in enumerate(["epoch", "000002", "mining", "svms", "regression", "regressors", ""]):
    run("killed", place, step > 0)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colours with a few proposals."""
    folder = tmp_path_factory.mktemp("rcnn")
    write_colours(folder / "colours", train=5, val=2)
    (folder / "small.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detseg.proposals.grid.SIDES", np.array([0.45, 0.3]))
        data = ["--data=COCO", f"--data.root={folder / 'colours'}"]
        cli.main(["propose", *data, "--method=grid", f"--out={folder / 'proposals'}"])
    return folder


@pytest.fixture(scope="module")
def runs(folder: Path) -> list[str]:
    """What became of each process that trained."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", KILLED], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    (folder / "log").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith(("unbroken", "killed"))]


def test_killed_at_any_stage_it_ends_as_if_unbroken(folder: Path, runs: list[str]) -> None:
    places = ["epoch", "000002", "mining", "svms", "regression", "regressors"]
    killed = [f"killed {place} {int(signal.SIGKILL)}" for place in places]
    assert runs == ["unbroken  ended 0", *killed, "killed  ended 0"], (folder / "log").read_text()
    for name in ("best.ckpt", "last.ckpt"):
        expected, found = (checkpoint.read(folder / "runs" / run / name) for run in ("unbroken", "killed"))
        assert found["state_dict"].keys() == expected["state_dict"].keys()
        for key, value in expected["state_dict"].items():
            assert torch.equal(found["state_dict"][key], value), key
        figures = [{k: v for k, v in content["detseg"]["metrics"].items() if "second" not in k and v == v}
                   for content in (expected, found)]  # fmt: skip
        assert figures[0] == figures[1]
        assert {"AP", "AP50", "VOC07_AP", "loss"} <= figures[0].keys()


def test_killed_it_does_nothing_twice(folder: Path, runs: list[str]) -> None:
    """Each process was killed right after a file was written, so that none has to be written again."""
    lines = (folder / "work").read_text().splitlines()
    unbroken, killed = (
        [line[len(run) + 1 :] for line in lines if line.startswith(run)] for run in ("unbroken", "killed")
    )
    assert killed == unbroken
    assert [unbroken.count(f"epoch {epoch}") for epoch in range(2)] == [1, 1]
    assert [unbroken.count(image_name(image)) for image in range(5)] == [1] * 5
    assert unbroken.count("mining") > 1
    assert [unbroken.count(name) for name in ("svms", "regression", "regressors")] == [1, 3, 1]


def test_what_a_training_leaves_behind(folder: Path, runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run = folder / "runs" / "unbroken"
    assert sorted(file.stem for file in (run / "features").glob("*.safetensors")) == [
        "mining", "regression", "regressors", "svms"]  # fmt: skip
    task = checkpoint.load(run / "best.ckpt")
    assert isinstance(task, RCNNTask)
    assert task.model.complete
    figures = json.loads((run / "metrics.json").read_text())
    assert figures["seconds_cnn"] > 0
    assert figures["seconds_head"] > 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        cli.main(["evaluate", "--checkpoint", str(run / "best.ckpt"), "--metrics", str(folder / "again.json")])
    again = json.loads((folder / "again.json").read_text())
    assert again["AP50"] == figures["AP50"]
    assert "seconds per image: proposals" in capsys.readouterr().err
    found = Predictor(task.model)(folder / "colours" / "val" / "val0.png", threshold=0.0)
    assert len(found[0].scores)
    log = (folder / "log").read_text()
    for stage in ("features", "support vector machines", "regressors"):
        assert f"{stage}: " in log


def test_the_ablation_on_one_checkpoint(folder: Path, runs: list[str]) -> None:
    scores = []
    for settings in ({}, {"scores": "softmax"}, {"box_regression": False}):
        task = checkpoint.load(folder / "runs" / "unbroken" / "best.ckpt")
        vars(task.model).update(settings)
        trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
        trainer.validate(task, data(folder), verbose=False)
        assert task.detections is not None
        scores.append((task.detections.scores.sum(), task.detections.boxes.sum()))
    assert len(set(scores)) == 3


def test_without_svms_and_regressors_no_features_are_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    plain = ["--model.scores=softmax", "--model.box_regression=false", "--task.features_gib=0"]
    cli.main(["train", "--config", "small.yaml", "--name", "plain", "--trainer.max_epochs=1", *plain])
    assert not (folder / "runs" / "plain" / "features").exists()
    assert "AP50" in json.loads((folder / "runs" / "plain" / "metrics.json").read_text())
    with pytest.raises(SystemExit):
        cli.main(["train", "--config", "small.yaml", "--name", "large", "--task.features_gib=0"])
    assert "--task.features_gib: 0 is not enough" in capsys.readouterr().err
    assert not (folder / "runs" / "large").exists()


def test_a_fine_tuned_network_alone_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="resume the training"):
        Predictor(model())


def model(**arguments: Any) -> RCNN:
    torch.manual_seed(0)
    return RCNN(SqueezeNet(), 3, crop_size=36, context=2, **arguments).eval()


def data(folder: Path) -> Any:
    return colours(folder / "colours", proposals=str(folder / "proposals"))


@pytest.fixture
def files(folder: Path, tmp_path: Path) -> RegionFeatures:
    """Features of all training images, by a network at random."""
    files = RegionFeatures(tmp_path / "features", "about")
    extract(model(), data(folder), files, torch.device("cpu"))
    return files


def test_features_belong_to_the_regions_that_the_paper_says(folder: Path, files: RegionFeatures) -> None:
    """IoU 0.3 and 0.6, box by box."""
    dataset = data(folder).dataset("train")
    dataset.training = False
    near = 0
    for row in range(5):
        sample = dataset[row]
        labels, overlaps, hidden, grid, deltas, classes = files.read(
            image_name(row), "labels", "overlaps", "hidden", "grid", "deltas", "classes"
        )
        assert torch.equal(labels, sample.labels)
        assert len(hidden) == len(sample.proposals)
        expected = []
        for region, own in zip(torch.cat([sample.boxes, sample.proposals]), overlaps, strict=True):
            iou = box_iou(region[None], sample.boxes)[0]
            for label in range(3):
                same = iou[sample.labels == label]
                assert float(own[label]) == pytest.approx(float(same.max()) if len(same) else 0.0, abs=1e-6)
        for proposal in sample.proposals:
            iou = box_iou(proposal[None], sample.boxes)[0]
            if iou.max() >= 0.6:
                box, size = sample.boxes[iou.argmax()], proposal[2:] - proposal[:2]
                middle = ((box[:2] + box[2:]) - (proposal[:2] + proposal[2:])) / 2
                expected.append(
                    (middle / size * 10, ((box[2:] - box[:2]) / size).log() * 5, sample.labels[iou.argmax()])
                )
        assert len(grid) == len(deltas) == len(classes) == len(expected)
        near += len(expected)
        for (offset, scale, label), own, of_class in zip(expected, deltas, classes, strict=True):
            assert_close(own, torch.cat([offset, scale]), rtol=1e-4, atol=1e-4)
            assert of_class == label
    assert near > 5


def test_proposals_on_objects_that_are_not_learnt_are_no_negatives(folder: Path, tmp_path: Path) -> None:
    """Crowds and difficult objects have no features, but overlaps; also where images are resized."""
    own = colours(folder / "colours", proposals=str(folder / "proposals"), transforms=[Resize(96, 96)])
    annotations, files = own.train_annotations, RegionFeatures(tmp_path / "features", "about")
    annotations.crowd[0], annotations.difficult[1] = True, True
    extract(model(), own, files, torch.device("cpu"))
    labels, truth, overlaps = files.read(image_name(0), "labels", "truth", "overlaps")
    assert labels.tolist() == annotations.labels[2:3].tolist()
    assert len(truth) == 1
    every = 1.5 * torch.from_numpy(annotations.boxes[:3]).float()
    iou = box_iou(torch.cat([every[2:], own.dataset("train")[0].proposals]), every)
    assert_close(overlaps[:, annotations.labels[:3]], iou, rtol=1e-4, atol=1e-5)
    assert (iou > 0.3).any(dim=0).all()


@pytest.fixture
def made_up(tmp_path: Path) -> RegionFeatures:
    """Features of 12 images with 50 proposals each, of which the classes 0 and 1 can be told, and none of class 2."""
    random = torch.Generator().manual_seed(0)
    files = RegionFeatures(tmp_path / "made_up", "about")
    for image in range(12):
        labels = torch.tensor([0, 1])
        truth = torch.randn(2, 16, generator=random) + 2 * torch.eye(2, 16)
        hidden = torch.randn(50, 16, generator=random)
        overlaps = torch.cat([torch.eye(2, 3), torch.rand(50, 3, generator=random)])
        content = {"labels": labels, "truth": truth.half(), "hidden": hidden.half()}
        files.write(image_name(image), content | {"overlaps": overlaps})
    return files


def everything(files: RegionFeatures, label: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All objects and all negatives of a class, in their order, at an average length of 20."""
    truth, hidden, overlaps = (
        torch.stack([files.read(image_name(i), key)[0].float() for i in range(12)])
        for key in ("truth", "hidden", "overlaps")
    )
    regions = torch.cat([truth, hidden], dim=1).flatten(0, 1)
    scale = 20 / regions.norm(dim=1).mean()
    negative = regions[overlaps.flatten(0, 1)[:, label] < 0.3]
    features = torch.cat([truth[:, label], negative])
    return scale * features, torch.arange(len(features)) < 12


def objective(features: torch.Tensor, positive: torch.Tensor, weight: torch.Tensor, bias: float) -> float:
    margin = torch.where(positive, 1, -1) * (features @ weight + bias)
    losses = (1 - margin).clamp(min=0) * torch.where(positive, 2.0, 1.0)
    return float((weight.square().sum() + (bias / 10) ** 2) / 2 + 0.001 * losses.sum())


def test_svms_equal_scikit_learn_on_all_negatives(made_up: RegionFeatures) -> None:
    """Mined little by little or all at once."""
    for refit_every, worse in ((10**6, 1.001), (20, 1.05)):
        fit_svms(made_up, 12, ("a", "b", "c"), refit_every=refit_every)
        weight, bias = made_up.read("svms", "weight", "bias")
        made_up.folder.joinpath("mining.safetensors").unlink(missing_ok=True)
        for label in (0, 1):
            features, positive = everything(made_up, label)
            scale = float(features.norm(dim=1)[0]) / float(
                made_up.read(image_name(0), "truth")[0][label].float().norm()
            )
            best = LinearSVC(C=0.001, loss="hinge", class_weight={1: 2}, intercept_scaling=10, max_iter=10**5, tol=1e-6)
            best.fit(features.numpy(), positive.numpy())
            least = objective(features, positive, torch.from_numpy(best.coef_[0]).float(), float(best.intercept_[0]))
            assert objective(features, positive, weight[label] / scale, float(bias[label])) < worse * least
        assert not weight[2].any()
        assert bias[2] == -torch.inf


def test_hard_negatives_change_the_set() -> None:
    random = torch.Generator().manual_seed(0)
    svm = ClassSVM(20 + torch.randn(30, 8, generator=random))
    easy, hard = -20 + 8 * torch.randn(40, 8, generator=random), 16 + torch.randn(40, 8, generator=random)
    svm.add(0, torch.arange(40), easy)
    svm.fit()
    assert len(svm.negatives) < 40  # the easy ones are dropped
    before = svm.weight.clone()
    assert (hard @ svm.weight + svm.bias > 0).all()
    svm.add(1, torch.arange(0, 40, 2), hard)
    assert svm.new == 20
    svm.fit()
    assert not torch.equal(svm.weight, before)
    assert (hard @ svm.weight + svm.bias).mean() < (hard @ before).mean()
    assert (svm.negatives @ svm.weight + svm.bias >= -1.2).all()
    of_hard = svm.places[svm.places[:, 0] == 1]
    assert len(of_hard)
    assert (of_hard[:, 1] % 2 == 0).all()
    assert_close(svm.negatives[svm.places[:, 0] == 1], hard[of_hard[:, 1]])


def test_negatives_are_all_regions_that_are_not_near_an_object(
    made_up: RegionFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = []
    monkeypatch.setattr(ClassSVM, "add", lambda self, image, chosen, hidden: added.append((image, chosen)))
    fit_svms(made_up, 12, ("a", "b", "c"))
    assert len(added) == 24
    for position, (image, chosen) in enumerate(added):
        overlaps = made_up.read(image_name(image), "overlaps")[0][:, position % 2]
        assert chosen.tolist() == [i for i, overlap in enumerate(overlaps.tolist()) if overlap < 0.3]


def test_a_class_without_a_negative_is_never_found(made_up: RegionFeatures, caplog: pytest.LogCaptureFixture) -> None:
    for image in range(12):
        labels, truth, hidden, overlaps = made_up.read(image_name(image), "labels", "truth", "hidden", "overlaps")
        overlaps[:, 0] = 1
        made_up.write(image_name(image), {"labels": labels, "truth": truth, "hidden": hidden, "overlaps": overlaps})
    fit_svms(made_up, 12, ("a", "b", "c"))
    weight, bias = made_up.read("svms", "weight", "bias")
    assert bias.isneginf().tolist() == [True, False, True]
    assert not weight[0].any()
    assert "no region is a negative of a: never detected" in caplog.text


def test_regressors_equal_scikit_learn(folder: Path, files: RegionFeatures) -> None:
    fit_regressors(files, 5, ("red", "green", "blue"))
    weight, bias = files.read("regressors", "weight", "bias")
    parts = [files.read(image_name(row), "grid", "deltas", "classes") for row in range(5)]
    grid, deltas, classes = (torch.cat(part) for part in zip(*parts, strict=True))
    scale = 20 / grid.float().norm(dim=1).mean()
    for label in classes.unique().tolist():
        own = classes == label
        expected = Ridge(alpha=1000.0).fit((scale * grid[own].double()).numpy(), deltas[own].double().numpy())
        places = slice(4 * label, 4 * label + 4)
        found = grid.float() @ weight[places].T + bias[places]
        predicted = torch.from_numpy(expected.predict((scale * grid.double()).numpy())).float()
        assert_close(found, predicted, rtol=1e-3, atol=1e-3)


def test_an_image_without_objects_gives_negatives_alone(folder: Path, tmp_path: Path) -> None:
    files = RegionFeatures(tmp_path / "features", "about")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DetectionAnnotations, "objects", lambda self, image: slice(0, 0))
        extract(model(), data(folder), files, torch.device("cpu"))
        proposals = data(folder).dataset("train")[0].proposals
    truth, hidden, overlaps, grid = files.read(image_name(0), "truth", "hidden", "overlaps", "grid")
    assert len(truth) == len(grid) == 0
    assert len(hidden) == len(overlaps) == len(proposals)
    assert not overlaps.any()


def test_features_that_are_not_finite_are_refused(folder: Path, tmp_path: Path) -> None:
    rcnn = model()
    with torch.no_grad():
        rcnn.backbone.features[0].weight *= 1e5
    with pytest.raises(DetsegError, match=r"train0\.png: its features are not finite"):
        extract(rcnn, data(folder), RegionFeatures(tmp_path / "features", "about"), torch.device("cpu"))


def test_room_is_asked_for_before_training(folder: Path, files: RegionFeatures) -> None:
    size = sum(file.stat().st_size for file in files.folder.glob("*.safetensors")) / 2**30
    check_room(model(), data(folder), 1.2 * size)
    with pytest.raises(ConfigError, match=r"^features_gib: .* raise it"):
        check_room(model(), data(folder), 0.5 * size)


def test_objects_to_learn_from_are_asked_for_before_training(folder: Path) -> None:
    own = data(folder)
    own.train_annotations.crowd[:] = True
    with pytest.raises(DataError, match="no training image shows an object to learn from"):
        check_room(model(), own, 1.0)


def test_features_of_something_else_are_made_anew(folder: Path, tmp_path: Path) -> None:
    first = model()
    about = describe(first, data(folder), "32-true")
    RegionFeatures(tmp_path / "features", about).write("000000", {"labels": torch.zeros(1)})
    assert "000000" in RegionFeatures(tmp_path / "features", describe(model(scores="softmax"), data(folder), "32-true"))
    with torch.no_grad():
        first.svms.weight.zero_()  # what is made of features does not change them
    assert describe(first, data(folder), "32-true") == about
    assert describe(first, data(folder), "bf16-mixed") != about
    with torch.no_grad():
        first.cls_score.bias[0] += 1
    assert "000000" not in RegionFeatures(tmp_path / "features", describe(first, data(folder), "32-true"))


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    own = tmp_path / "features" / "mine.txt"
    own.parent.mkdir()
    own.write_text("mine")
    with pytest.raises(ConfigError, match=r"features: not a folder of R-CNN's training.*move it away"):
        RegionFeatures(own.parent, "about")
    assert [file.name for file in own.parent.iterdir()] == ["mine.txt"]
    with pytest.raises(DataError, match=r"mine\.txt: cannot be used: .*resume the training"):
        RegionFeatures(own, "about")


def test_what_is_made_anew_is_made_of_features_alone(tmp_path: Path) -> None:
    RegionFeatures(tmp_path, "old").write("000000", {"labels": torch.zeros(1)})
    (tmp_path / "notes.txt").write_text("mine")
    RegionFeatures(tmp_path, "new")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["about.json", "notes.txt"]


def test_a_full_disk_spoils_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The note of what the features depend on is written once, and nothing is left half written."""

    def full(content: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    files = RegionFeatures(tmp_path, "about")
    monkeypatch.setattr("detseg.tasks.region_features.save_file", full)
    with pytest.raises(DataError, match=r"000000\.part: cannot be written: No space left"):
        files.write("000000", {"labels": torch.zeros(1)})
    monkeypatch.setattr(Path, "write_text", lambda self, text, **_: full(text, self))
    RegionFeatures(tmp_path, "about")
    with pytest.raises(DataError, match=r"about\.part: cannot be written: No space left"):
        RegionFeatures(tmp_path, "something else")
    assert [file.name for file in tmp_path.iterdir()] == ["about.json"]
    assert (tmp_path / "about.json").read_text() == "about"


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    files = RegionFeatures(tmp_path / "features", "about")
    files.write("000000", {"labels": torch.zeros(100)})
    path = tmp_path / "features" / "000000.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"000000\.safetensors: damaged"):
        files.read("000000", "labels")


def test_without_proposals_nothing_begins(folder: Path) -> None:
    with pytest.raises(DataError, match="R-CNN needs proposals"):
        check_room(model(), colours(folder / "colours"), 1.0)
