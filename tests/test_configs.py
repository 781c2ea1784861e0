"""Every file in configs/ is read, builds what it names, and trains a step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from PIL import Image
from torch import nn

from detseg import cli
from detseg.cli._configs import find_config
from detseg.cli.train import TrainCLI
from detseg.data import ClassificationDataModule, DetectionDataModule, SegmentationDataModule
from tests.colours import write_classes, write_colours
from tests.modules.backbones.tester import Narrow

pytestmark = pytest.mark.usefixtures("quick_initialization")

CONFIGS = Path(__file__).parents[1] / "configs"
EXPERIMENTS = sorted(path.name for path in CONFIGS.glob("*.yaml"))
PUBLISHED = sorted(f"torchvision/{path.name}" for path in CONFIGS.glob("torchvision/*.yaml"))
DATA = sorted(path.name for path in CONFIGS.glob("data/*.yaml"))
TRAINERS = sorted(path.name for path in CONFIGS.glob("trainer/*.yaml"))

# Small images and few regions, on the CPU.
SMALL = """\
data:
  class_path: COCO
  init_args:
    root: colours
    batch_size: 2
    num_workers: 0
    transforms:
      - class_path: Resize
        init_args:
          size: 64
          max_size: 64
      - RandomHorizontalFlip
trainer:
  accelerator: cpu
  fast_dev_run: true
"""


# The same for classifiers: one image of each class.
SMALL_CLASSIFICATION = """\
data:
  class_path: ClassificationDataModule
  init_args:
    root: classes
    size: 64
    batch_size: 2
    num_workers: 0
trainer:
  accelerator: cpu
  fast_dev_run: true
"""

# The same for segmentation.
SMALL_SEGMENTATION = """\
data:
  class_path: SegmentationDataModule
  init_args:
    root: masks
    batch_size: 2
    num_workers: 0
    transforms:
      - class_path: RandomScaleCrop
        init_args:
          size: 64
      - RandomHorizontalFlip
trainer:
  accelerator: cpu
  fast_dev_run: true
"""

FEW_REGIONS = [
    "--model.roi_heads.sampler.batch_size_per_image=8",
    "--model.roi_heads.sampler.positive_fraction=0.25",
]
# What makes a network small, or provides it with what it needs.
MORE = {
    "FasterRCNN": [*FEW_REGIONS, "--model.rpn.post_nms_top_n=[20, 20]"],
    "MaskRCNN": [*FEW_REGIONS, "--model.rpn.post_nms_top_n=[20, 20]"],
    "FastRCNN": [*FEW_REGIONS, "--data.proposals=proposals"],
    "RCNN": [
        "--model.sampler.batch_size_per_image=8",
        "--model.sampler.positive_fraction=0.25",
        "--model.crop_size=96",
        "--data.proposals=proposals",
    ],
    "RetinaNet": [],
    "Classifier": [],
    "FCN": [],
    "DilatedFCN": [],
}
# Settings for small data of each kind of network, where it is none of detectors: its class, and where it lies.
OTHERS = {
    "Classifier": ("small_classification.yaml", "ImageFolders", "classes"),
    "FCN": ("small_segmentation.yaml", "SegmentationDataModule", "masks"),
    "DilatedFCN": ("small_segmentation.yaml", "SegmentationDataModule", "masks"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("configs")
    write_colours(folder / "colours", train=2, val=1)
    (folder / "small.yaml").write_text(SMALL)
    write_classes(folder / "classes", train=1, val=1)
    (folder / "small_classification.yaml").write_text(SMALL_CLASSIFICATION)
    write_masks(folder / "masks")
    (folder / "small_segmentation.yaml").write_text(SMALL_SEGMENTATION)
    cli.main(
        [
            "propose",
            "--data=COCO",
            f"--data.root={folder / 'colours'}",
            "--method=grid",
            f"--out={folder / 'proposals'}",
        ]
    )
    return folder


def write_masks(root: Path) -> None:
    """Two images of 64 x 64 pixels for each split, in three classes."""
    for split in ("train", "val"):
        for name in ("images", "masks"):
            (root / name / split).mkdir(parents=True)
        for number in range(2):
            labels = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64) % 3
            Image.fromarray(80 * labels).convert("RGB").save(root / "images" / split / f"{number}.png")
            Image.fromarray(labels).save(root / "masks" / split / f"{number}.png")
    (root / "classes.txt").write_text("\n".join(("red", "green", "blue")))


def model_of(name: str) -> str:
    """The class of the network in a file."""
    return yaml.safe_load((CONFIGS / name).read_text())["model"]["class_path"]


def small_data(name: str) -> tuple[str, str, str]:
    return OTHERS.get(model_of(name), ("small.yaml", "COCO", "colours"))


def without_weights(name: str) -> list[str]:
    """Arguments that leave out every set of pretrained weights in a file: they would be downloaded."""
    found = []

    def search(node: object, key: str) -> None:
        if isinstance(node, dict):
            for part, value in node.items():
                inner = key if part in ("init_args", "class_path") else f"{key}.{part}".removeprefix(".")
                if part == "weights":
                    found.append(f"--{inner}=null")
                search(value, inner)

    search(yaml.safe_load((CONFIGS / name).read_text()), "")
    return found


def test_there_are_configs() -> None:
    assert {"faster_rcnn_r50.yaml", "faster_rcnn_r50_c4.yaml", "faster_rcnn_shapes.yaml"} <= set(EXPERIMENTS)
    assert {"coco.yaml", "shapes.yaml", "voc.yaml"} <= set(DATA)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_trains_and_validates_a_step(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(nn, "Linear", Narrow)  # fc6 and fc7 of VGG16 would take the most time
    small = ["--config", small_data(name)[0], *without_weights(name), *MORE[model_of(name)]]
    cli.main(["train", "--config", name, *small])


@pytest.mark.parametrize("name", [*EXPERIMENTS, *PUBLISHED])
def test_an_experiment_takes_other_data(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a file with a root and nothing else: the classes come from the data."""
    monkeypatch.chdir(folder)
    _, kind, root = small_data(name)
    (folder / "my_data.yaml").write_text(f"class_path: {kind}\ninit_args:\n  root: {root}\n")
    with torch.device("meta"):  # weights take time, and are not looked at
        training = TrainCLI(["--config", name, "--data", "my_data.yaml", *without_weights(name)])
    assert training.model.num_classes == 3
    assert training.trainer.max_epochs


@pytest.mark.parametrize("name", DATA)
def test_a_data_set_builds(name: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments((DetectionDataModule, ClassificationDataModule, SegmentationDataModule), "data")
    data = parser.instantiate_classes(parser.parse_args(["--data", str(CONFIGS / "data" / name)])).data
    assert isinstance(data, (DetectionDataModule, ClassificationDataModule, SegmentationDataModule))


@pytest.mark.parametrize("name", TRAINERS)
def test_trainer_settings_are_read(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit):
        cli.main(["train", "--config", "faster_rcnn_shapes.yaml", "--trainer", f"trainer/{name}", "--print_config"])
    settings = yaml.safe_load(capsys.readouterr().out)["trainer"]
    given = yaml.safe_load((CONFIGS / "trainer" / name).read_text())
    assert {key: settings[key] for key in given} == given


def test_a_bare_name_is_found_wherever_one_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert find_config("faster_rcnn_r50.yaml").resolve() == (CONFIGS / "faster_rcnn_r50.yaml").resolve()
    assert find_config("data/coco.yaml").resolve() == (CONFIGS / "data" / "coco.yaml").resolve()
    Path("configs").mkdir()
    Path("configs/faster_rcnn_r50.yaml").write_text("{}")
    assert find_config("faster_rcnn_r50.yaml") == Path("configs/faster_rcnn_r50.yaml")  # one's own goes first
