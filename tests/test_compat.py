"""Settings and checkpoints as version 0.1.0 wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from detseg import checkpoint, cli, compat
from detseg.cli._configs import find_configs, where
from detseg.configurable import from_config, to_config
from detseg.models import RCNN, MaskRCNN
from detseg.modules.backbones import MobileNetV1
from tests.colours import write_colours

CONFIG = """\
model:
  network:
    class_path: FasterRCNN
    init_args:
      backbone:
        class_path: FPN
        init_args:
          channels: 16
          body: MobileNetV2
      head:
        class_path: TwoFCHead
        init_args:
          in_channels: 16
          channels: 32
      anchor_sizes: [[16], [32], [64], [128], [256]]
      rpn_candidates: [500, 200]
      proposals: [300, 100]
      samples: 64
  lr: 0.003
  optimizer: adamw
  weight_decay: 0.5
  schedule: cosine
  warmup_steps: 50
data:
  class_path: COCO
  init_args:
    root: colours
    batch_size: 3
"""

MASK_RCNN = {
    "class": "MaskRCNN",
    "arguments": {
        "backbone": {
            "class": "FPN",
            "arguments": {
                "body": {"class": "MobileNetV1", "arguments": {"alpha": 0.125, "stages": [3, 4]}},
                "channels": 8,
            },
        },
        "num_classes": 5,
        "head": {"class": "TwoFCHead", "arguments": {"in_channels": 8, "channels": 16}},
        "mask_channels": 8,
        "anchor_sizes": [[16], [32], [64]],
        "rpn_candidates": [100, 50],
        "proposals": [50, 20],
        "samples": 32,
    },
}
# Names in a state dict of 0.1.0 and of today; today's are torchvision's.
MASK_RCNN_NAMES = {
    "backbone.inner.1.weight": ("backbone.lateral_convs.1.weight", (8, 64, 1, 1)),
    "backbone.outer.0.weight": ("backbone.output_convs.0.weight", (8, 8, 3, 3)),
    "rpn.conv.weight": ("rpn.head.conv.0.weight", (8, 8, 3, 3)),
    "rpn.objectness.bias": ("rpn.head.cls_logits.bias", (3,)),
    "rpn.deltas.weight": ("rpn.head.bbox_pred.weight", (12, 8, 1, 1)),
    "box_head.body.fc6.weight": ("roi_heads.box_head.fc6.weight", (16, 392)),
    "box_head.body.fc7.bias": ("roi_heads.box_head.fc7.bias", (16,)),
    "box_head.classes.weight": ("roi_heads.box_predictor.cls_score.weight", (6, 16)),
    "box_head.deltas.weight": ("roi_heads.box_predictor.bbox_pred.weight", (20, 16)),
    "mask_head.convs.3.weight": ("roi_heads.mask_head.convs.3.weight", (8, 8, 3, 3)),
    "mask_head.deconv.weight": ("roi_heads.mask_head.conv5_mask.weight", (8, 8, 2, 2)),
    "mask_head.logits.weight": ("roi_heads.mask_head.mask_fcn_logits.weight", (5, 8, 1, 1)),
}
MASK_RCNN_SHAPES = {
    **{
        f"backbone.inner.{level}.{name}": shape
        for level, channels in ((0, 32), (1, 64))
        for name, shape in (("weight", (8, channels, 1, 1)), ("bias", (8,)))
    },
    **{
        f"backbone.outer.{level}.{name}": shape
        for level in (0, 1)
        for name, shape in (("weight", (8, 8, 3, 3)), ("bias", (8,)))
    },
    "rpn.conv.weight": (8, 8, 3, 3),
    "rpn.conv.bias": (8,),
    "rpn.objectness.weight": (3, 8, 1, 1),
    "rpn.objectness.bias": (3,),
    "rpn.deltas.weight": (12, 8, 1, 1),
    "rpn.deltas.bias": (12,),
    "box_head.body.fc6.weight": (16, 392),
    "box_head.body.fc6.bias": (16,),
    "box_head.body.fc7.weight": (16, 16),
    "box_head.body.fc7.bias": (16,),
    "box_head.classes.weight": (6, 16),
    "box_head.classes.bias": (6,),
    "box_head.deltas.weight": (20, 16),
    "box_head.deltas.bias": (20,),
    **{
        f"mask_head.convs.{layer}.{name}": shape
        for layer in range(4)
        for name, shape in (("weight", (8, 8, 3, 3)), ("bias", (8,)))
    },
    "mask_head.deconv.weight": (8, 8, 2, 2),
    "mask_head.deconv.bias": (8,),
    "mask_head.logits.weight": (5, 8, 1, 1),
    "mask_head.logits.bias": (5,),
}
DATA = {
    "class": "Shapes",
    "arguments": {
        "root": "shapes",
        "transforms": {"class": "Transforms", "arguments": {"size": 96, "max_size": 128}},
        "batch_size": 2,
        "masks": "all",
    },
}


@pytest.fixture(autouse=True)
def notes_appear_again() -> None:
    """Each name is logged once in a process."""
    compat.note.cache_clear()


def write_checkpoint(path: Path, network: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Write a file as 0.1.0 did."""
    metadata = {
        "format": 1,
        "network": network,
        "data": DATA,
        "classes": ["circle", "ring", "square", "star", "triangle"],
        "category_ids": [1, 2, 3, 4, 5],
        "config": {"model": {"network": {"class_path": "MaskRCNN"}, "lr": 0.25, "momentum": 0.75}},
        "metrics": {"AP": 0.5},
    }
    torch.save({"state_dict": {f"network.{name}": value for name, value in state.items()}, "detseg": metadata}, path)


def test_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write_colours(tmp_path / "colours", train=1, val=1)
    Path("old.yaml").write_text(CONFIG)
    with pytest.raises(SystemExit) as ended:
        cli.main(
            [
                "train",
                "--config",
                "old.yaml",
                "--model.network.backbone.channels",
                "24",
                "--model.lr",
                "0.5",
                "--print_config",
            ]
        )
    assert not ended.value.code
    printed = capsys.readouterr()
    settings = yaml.safe_load(printed.out)
    task, model = settings["task"], settings["model"]["init_args"]
    assert (task["lr"], task["reference_batch"]) == (0.5, 16)  # the command line goes before the file
    assert (task["optimizer"]["name"], task["optimizer"]["weight_decay"]) == ("adamw", 0.5)
    assert (task["schedule"]["name"], task["schedule"]["warmup_steps"]) == ("cosine", 50)
    assert model["backbone"]["init_args"]["channels"] == 24
    assert model["backbone"]["init_args"]["backbone"]["class_path"].endswith("MobileNetV2")
    assert model["rpn"]["init_args"]["pre_nms_top_n"] == [500, 200]
    assert model["rpn"]["init_args"]["post_nms_top_n"] == [300, 100]
    assert model["rpn"]["init_args"]["anchor_generator"]["init_args"]["sizes"] == [[16], [32], [64], [128], [256]]
    assert model["roi_heads"]["init_args"]["sampler"]["init_args"]["batch_size_per_image"] == 64
    head = model["roi_heads"]["init_args"]["box_head"]
    assert head["class_path"].endswith("TwoMLPHead")
    assert head["init_args"]["channels"] == 32
    assert settings["data"]["init_args"]["batch_size"] == 3
    for line in ("model.network is called model ", "model.lr is called task.lr ", "TwoFCHead is called TwoMLPHead "):
        assert printed.err.count(line) == 1


def test_an_error_names_the_line_of_an_old_file(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text(CONFIG)
    arguments = find_configs(["--config", str(file), "--model.momentum", "0.5"])
    assert where("task.lr", arguments) == f" ({file}, line 19)"
    assert where("model.backbone.backbone", arguments) == f" ({file}, line 9)"
    assert where("task.optimizer.momentum", arguments) == " (command line)"


def test_options() -> None:
    old = [
        "--model.network.backbone.body=detseg.modules.backbones.ResNet",
        "--model.network=FCN",
        "--data.root=a",
        "--resume",
    ]
    new = ["--model.backbone.backbone=detseg.modules.backbones.ResNet", "--model=FCN", "--data.root=a", "--resume"]
    assert compat.translate_options(old) == compat.translate_options(new) == new


def test_a_class_whose_module_has_moved() -> None:
    settings = {"class_path": "detseg.data.old_module.Shapes", "init_args": {"root": "detseg.other"}}
    assert compat.translate_settings(settings) == {"class_path": "Shapes", "init_args": {"root": "detseg.other"}}
    assert compat.translate_settings({"class_path": "mine.Net"}) == {"class_path": "mine.Net"}


def test_a_detector_keeps_its_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    body = MobileNetV1(alpha=0.125, stages=[3, 4]).state_dict()
    state = {f"backbone.body.{name}": torch.rand_like(value.float()).to(value.dtype) for name, value in body.items()}
    state |= {name: torch.randn(shape) for name, shape in MASK_RCNN_SHAPES.items()}
    write_checkpoint(tmp_path / "old.ckpt", MASK_RCNN, state)
    task = checkpoint.load(tmp_path / "old.ckpt")
    assert isinstance(task.model, MaskRCNN)
    today = task.model.state_dict()
    for old, (new, shape) in MASK_RCNN_NAMES.items():
        assert today[new].shape == shape
        assert torch.equal(today[new], state[old])
    assert len(today) == len(state)
    assert task.class_names == ("circle", "ring", "square", "star", "triangle")
    assert task.model.rpn.post_nms_top_n == [50, 20]
    assert (task.config["task"]["lr"], task.config["task"]["optimizer"]["momentum"]) == (0.25, 0.75)


def test_what_it_writes_is_today_s(tmp_path: Path) -> None:
    """A checkpoint that was loaded and saved again needs no translation."""
    backbone = MobileNetV1(alpha=0.125)
    state = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    shapes = {"classes": (6, 128), "svms": (5, 128), "deltas": (20, backbone.channels[-1] * 9)}
    for name, shape in shapes.items():
        state |= {f"{name}.weight": torch.randn(shape), f"{name}.bias": torch.randn(shape[0])}
    network = {
        "class": "RCNN",
        "arguments": {
            "backbone": {"class": "MobileNetV1", "arguments": {"alpha": 0.125}},
            "num_classes": 5,
            "size": 40,
            "context": 4,
            "samples": 16,
        },
    }
    write_checkpoint(tmp_path / "old.ckpt", network, state)
    checkpoint.save(checkpoint.load(tmp_path / "old.ckpt"), tmp_path / "new.ckpt")
    content = checkpoint.state_dict.read(tmp_path / "new.ckpt")
    assert content["detseg"]["format"] == compat.FORMAT
    assert all(name.startswith("model.") for name in content["state_dict"])
    model = checkpoint.load(tmp_path / "new.ckpt").model
    assert isinstance(model, RCNN)
    assert (model.crop_size, model.context) == (40, 4)
    assert torch.equal(model.cls_score.weight, state["classes.weight"])
    assert torch.equal(model.bbox_pred.weight, state["deltas.weight"])


@pytest.mark.parametrize(
    ("name", "old", "new_name", "new"),
    [
        (
            "COCO",
            {"root": "a", "train_file": "t.json", "train_images": "i", "workers": 4, "masks": "sound", "seed": 3},
            "COCO",
            {
                "root": "a",
                "num_workers": 4,
                "masks": "valid",
                "split": {"train": "t.json", "seed": 3},
                "format": {"class": "CocoFormat", "init_args": {"images": {"train": "i"}}},
            },
        ),
        (
            "VOC",
            {"root": "a", "train_split": "trainval", "val_split": "test", "val_fraction": 0.3},
            "VOC",
            {"root": "a", "split": {"train": "trainval", "val": "test", "val_fraction": 0.3}},
        ),
        (
            "Folder",
            {"root": "a", "format": None, "labels": "l", "names": "n.yaml"},
            "DetectionDataModule",
            {"root": "a", "format": {"class": "YoloFormat", "init_args": {"labels": "l", "names": "n.yaml"}}},
        ),
        ("Folder", {"root": "a", "format": "LVIS"}, "DetectionDataModule", {"root": "a", "format": "LVIS"}),
        (
            "COCOSegmentation",
            {"root": "a", "classes": ["cat"]},
            "SegmentationDataModule",
            {"root": "a", "format": {"class": "CocoSemanticFormat", "init_args": {"classes": ["cat"]}}},
        ),
        (
            "VOCSegmentation",
            {"root": "a", "sbd": "b", "train_split": "train"},
            "SegmentationDataModule",
            {
                "root": "a",
                "format": {"class": "VocSemanticFormat", "init_args": {"sbd": "b"}},
                "split": {"train": "train"},
            },
        ),
        ("CamVid", {"root": "a"}, "SegmentationDataModule", {"format": "CamVid", "root": "a"}),
        ("CityscapesSegmentation", {"root": "a"}, "SegmentationDataModule", {"format": "Cityscapes", "root": "a"}),
        ("FolderSegmentation", {"root": "a", "workers": 1}, "SegmentationDataModule", {"root": "a", "num_workers": 1}),
        ("ImageFolders", {"root": "a", "workers": 1}, "ClassificationDataModule", {"root": "a", "num_workers": 1}),
        ("Shapes", {"root": "a", "seed": 2, "workers": 0}, "Shapes", {"root": "a", "seed": 2, "num_workers": 0}),
        ("ShapeCrops", {"val_split": "train", "seed": 1}, "ShapeCrops", {"seed": 1, "split": {"val": "train"}}),
    ],
)
def test_data_modules(name: str, old: dict[str, Any], new_name: str, new: dict[str, Any]) -> None:
    """Data modules of a checkpoint and of a configuration; today's classes take their arguments, and stay."""
    translated = compat._objects({"class": name, "init_args": old}, "class", "init_args")
    assert translated == {"class": new_name, "init_args": new}
    assert compat._objects(translated, "class", "init_args") == translated
    assert to_config(from_config(translated)) == translated
    settings = compat.translate_settings({"data": {"class_path": name, "init_args": old}})
    assert settings["data"]["class_path"] == new_name


@pytest.mark.parametrize(
    ("name", "unused"),
    [("Shapes", ["sampling", "bad_samples"]), ("ShapesSegmentation", ["bad_samples"]), ("ShapeCrops", ["area"])],
)
def test_unused_arguments_are_noted(name: str, unused: list[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    old = {"class": name, "init_args": {"seed": 2, **dict.fromkeys(unused, "x")}}
    for _ in range(2):
        assert compat._objects(old, "class", "init_args") == {"class": name, "init_args": {"seed": 2}}
    assert sorted(record.message.partition(" ")[0] for record in caplog.records) == sorted(unused)
    assert caplog.text.count("is no longer used in this version of detseg; remove it where you set it") == len(unused)


def test_data_options() -> None:
    old = ["--data=CamVid", "--data.workers=2", "--data.val_split=test", "--data.masks=sound"]
    new = ["--data=SegmentationDataModule", "--data.format=CamVid", "--data.num_workers=2"]
    assert compat.translate_options(old) == [*new, "--data.split.val=test", "--data.masks=valid"]
    assert compat.translate_options(["--data.format=CamVid"]) == ["--data.format=CamVid"]
    assert compat.translate_settings({"data": "Folder"})["data"]["class_path"] == "DetectionDataModule"


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("Transforms", {"size": 96, "flip": 0}, {"Resize": {"size": 96}, "RandomHorizontalFlip": {"p": 0}}),
        (
            "MixingTransforms",
            {"jitter": [0.1, 2.0], "copy_paste": 0.5, "mosaic": 0.0, "augment": {"ColorJitter": {"p": 1}}},
            {
                "LargeScaleJitter": {"size": 800, "max_size": 1333, "scale": [0.1, 2.0]},
                "RandomHorizontalFlip": {},
                "CopyPaste": {"p": 0.5},
                "Albumentations": {"transforms": {"ColorJitter": {"p": 1}}},
            },
        ),
        ("MixingTransforms", {"mosaic": 1.0}, {"Resize": {}, "Mosaic": {"p": 1.0}, "RandomHorizontalFlip": {}}),
        (
            "SegmentationTransforms",
            {"scale": [1, 1], "crop": None, "augment": None},
            {"RandomScaleCrop": {"scale": [1, 1], "size": None}, "RandomHorizontalFlip": {}},
        ),
    ],
)
def test_transforms(name: str, old: dict[str, Any], new: dict[str, dict[str, Any]]) -> None:
    """Settings of one class become a list of steps, in checkpoints and configurations."""
    for cls, arguments in (("class", "init_args"), ("class_path", "init_args")):
        steps = [{cls: step, arguments: settings} for step, settings in new.items()]
        translated = compat._objects({"transforms": {cls: name, arguments: old}}, cls, arguments)
        assert translated == {"transforms": steps}
        assert compat._objects(translated, cls, arguments) == translated
    assert len(from_config(compat._objects({"class": name, "init_args": old}, "class", "init_args"))) == len(new)


def test_transforms_of_image_folders() -> None:
    old = {"class": "ImageFolders", "init_args": {"root": "a", "size": 32, "area": [0.5, 1.0], "flip": 0}}
    transforms = from_config(compat._objects(old, "class", "init_args")).transforms
    steps = [{"class": "RandomResizedCrop", "init_args": {"size": 32, "scale": [0.5, 1.0]}}]
    assert to_config(transforms) == [*steps, {"class": "RandomHorizontalFlip", "init_args": {"p": 0}}]


def test_transform_options() -> None:
    old = ["--data.transforms.init_args.crop=1.0", "--data.transforms.size=64", "--data.flip=0"]
    new = ["--data.transforms.Resize.crop=1.0", "--data.transforms.Resize.size=64"]
    assert compat.translate_options(old) == [*new, "--data.transforms.RandomHorizontalFlip.p=0"]
