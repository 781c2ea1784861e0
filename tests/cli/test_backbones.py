"""`detseg probe`, `visualize` and `heatmap`, end to end on small pictures, and what they say is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from detseg import cli
from detseg.modules.backbones import GoogLeNet
from tests.colours import COLOURS, write_classes, write_colours

BACKBONE = ("--backbone", "MobileNetV2", "--backbone.weights", "weights.pth")
SMALL = ("--size", "32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, a data set of coloured rectangles, and folders of plain and of striped pictures."""
    folder = tmp_path_factory.mktemp("looking")
    torch.manual_seed(0)
    torch.save(torchvision.models.mobilenet_v2().state_dict(), folder / "weights.pth")
    write_colours(folder / "colours", train=8, val=6)
    generator = np.random.default_rng(0)
    for number in range(12):
        for name in ("plain", "striped"):
            image = np.full((40, 50, 3), generator.integers(60, 190), np.uint8)
            if name == "striped":
                image[:, ::5] += 60
            (folder / "pictures" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / "pictures" / name / f"{number}.png")
    (folder / "pictures" / "rare").mkdir()
    Image.fromarray(image).save(folder / "pictures" / "rare" / "one.png")
    (folder / "empty" / "cat").mkdir(parents=True)
    return folder


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def rows(printed: str) -> dict[str, list[float]]:
    """The numbers of each block in the table."""
    lines = [re.split(r"[\s±]+", line) for line in printed.splitlines() if line.startswith("features.")]
    return {name: [float(number) for number in numbers] for name, *numbers in lines}


def test_the_layers_of_class_folders(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*BACKBONE, *SMALL, "--data", "pictures", "--min_count", "4", "--random", "2"]
    cli.main(["probe", *arguments, "--depths", "features.18,features.1", "--out", "new/probe.png"])
    printed = capsys.readouterr()
    found = rows(printed.out)
    assert list(found) == ["features.1", "features.18.2"]  # in the order of the network
    assert found["features.1"][0] == 16 * 16 * 16  # all of a small map
    assert found["features.1"][1] == 100  # stripes are found by one convolution
    assert all(0 <= number <= 100 for numbers in found.values() for number in numbers[1:])
    assert "2 classes to train on" in printed.err.replace("pictures of ", "")
    assert "left out 1 classes" in printed.err
    assert "rare (1 + 0)" in printed.err
    assert "always plain: 50.0" in printed.out
    assert Image.open("new/probe.png").size == (960, 540)
    cli.main(["probe", *arguments, "--depths", "features.1,features.18.2", "--out", "new/probe.png"])
    assert capsys.readouterr().out == printed.out  # by the same seed the same


def test_the_objects_of_a_detection_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*BACKBONE, *SMALL, "--data", "COCO", "--data.root", "colours", "--min_count", "5"]
    cli.main(["probe", *arguments, "--depths", "features.0.0", "--random", "0"])
    printed = capsys.readouterr()
    assert "24 pictures of 3 classes to train on, 12 to validate" in printed.err
    assert rows(printed.out)["features.0.0"][1] == 100  # a colour is all there is to know
    assert "random" not in printed.out
    assert Path("probe.png").exists()


def test_folders_that_are_split_stay_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, numbers in (("train", range(9)), ("val", range(9, 12))):
        for name in ("plain", "striped"):
            (folder / "split" / split / name).mkdir(parents=True)
            for number in numbers:
                (folder / "split" / split / name / f"{number}.png").symlink_to(
                    folder / "pictures" / name / f"{number}.png"
                )
    cli.main(
        ["probe", *BACKBONE, *SMALL, "--data", "split", "--min_count", "9", "--random", "0", "--depths", "features.1"]
    )
    assert "18 pictures of 2 classes to train on, 6 to validate" in capsys.readouterr().err


def test_a_map_of_a_data_set(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A planted copy is found, listed for `detseg check`, and left out by it."""
    data = write_colours(folder / "leaky", train=6, val=3)
    generator = np.random.default_rng(1)
    for image in sorted(data.glob("*/*.png")):  # with noise, without which colours of one order are the same
        noisy = generator.integers(0, 256, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(noisy).save(image)
    copied = Image.open(data / "train" / "train2.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    copied.save(data / "val" / "val1.png")
    options = [*BACKBONE, "--size", "48", "--method", "pca", "--image", "pictures/plain/0.png", "--out", "embedded"]
    cli.main(["embed", "leaky", *options, "--layer", "features.3"])
    assert "near-duplicates: 1 (1 of val in train)" in capsys.readouterr().out
    listed = Path("embedded/duplicates.csv").read_text().splitlines()
    assert listed[1].startswith("val/val1.png,train/train2.png,")
    table = Path("embedded/images.csv").read_text().splitlines()
    assert len(table) == 1 + 9
    assert re.match(r"train/train0.png,train,(red|green|blue),64.0,[01]\.\d{4},", table[1])
    assert Image.open("embedded/map.png").size == (1100, 900)
    assert Image.open("embedded/neighbours.png").size[0] > 900
    page = Path("embedded/map.html").read_text()
    assert '"near": [[' in page
    assert '"name": "rotated"' in page
    assert "http" not in page.replace("http-equiv", "")
    with pytest.raises(SystemExit):
        cli.main(["check", "leaky", "--duplicates", "embedded/duplicates.csv", "--fix", "whole"])
    assert not Path("whole/images/val/val1.png").exists()
    assert Path("whole/images/train/train2.png").exists()
    cli.main(["embed", "leaky", *options[:-4], "--objects", "true", "--out", "objects"])
    assert "24 objects" in Path("objects/map.html").read_text()


def test_made_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["visualize", *BACKBONE, *SMALL, "--layer", "features.3", "--channel", "0,23", "--steps", "3"])
    printed = capsys.readouterr().err
    assert printed.count("after 3 steps") == 2
    assert Image.open("visualize.png").size == (16 + 200 + 12 + 200 + 16, 48 + 200 + 24 + 16)


def test_maps_of_an_image() -> None:
    image = "pictures/striped/3.png"
    cli.main(["visualize", *BACKBONE, *SMALL, "--layer", "features.2", "--image", image, "--out", "maps.png"])
    assert Image.open("maps.png").width == 2 * 16 + 6 * 200 + 5 * 12
    cli.main(
        [
            "visualize",
            *BACKBONE,
            *SMALL,
            "--layer",
            "features.2",
            "--image",
            image,
            "--channel",
            "4",
            "--out",
            "maps.png",
        ]
    )
    assert Image.open("maps.png").width == 2 * 16 + 2 * 200 + 12


def test_patches_of_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(
        ["visualize", *BACKBONE, *SMALL, "--layer", "features.1", "--channel", "1", "--images", "pictures/striped"]
    )
    printed = capsys.readouterr().err
    strengths = [float(found) for found in re.findall(r"channel 1: (\S+) at \[", printed)]
    assert len(strengths) == 6
    assert strengths == sorted(strengths, reverse=True)


def error(capsys: pytest.CaptureFixture[str], command: str, *arguments: str) -> str:
    """What a command prints last before it ends with an error."""
    with pytest.raises(SystemExit) as ended:
        cli.main([command, *arguments])
    assert ended.value.code in (1, 2)
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    return printed[printed.index("error: ") :].strip()


PROBE = ("probe", *BACKBONE, *SMALL)
LOOK = ("visualize", *BACKBONE, *SMALL)
WRONG = [
    (("probe", "--backbone", "MobileNetV2", "--data", "pictures"), ["backbone.weights must be set"]),
    (
        ("probe", "--backbone", "MobileNetV2", "--backbone.weights", "no.pth", "--data", "pictures"),
        ["no.pth: neither a file nor weights of mobilenet_v2", "IMAGENET1K_V1"],
    ),
    (("probe", "--backbone", "MobileNetV99", "--data", "pictures"), ["MobileNetV99", "did you mean", "MobileNetV2"]),
    (("probe", "--backbone.weights", "no.pth"), ["--backbone must be set"]),
    ((*PROBE, "--data", "nowhere"), ["--data nowhere: neither a folder", "--data VOC --data.root"]),
    ((*PROBE, "--data", "empty"), ["empty/cat: no image of this class", ".jpg"]),
    ((*PROBE, "--data", "pictures"), ["0 of 3 classes have 10 pictures to train", "--min_count"]),
    ((*PROBE, "--data", "pictures", "--min_count", "1"), ["--min_count 1: must be at least 2"]),
    ((*PROBE, "--data", "pictures", "--val_fraction", "1"), ["--val_fraction 1: must be above 0 and below 1"]),
    ((*PROBE, "--data", "pictures", "--depths", "feature.3"), ["--depths feature.3", "did you mean features.3 or"]),
    ((*PROBE, "--data", "pictures", "--out", "probe.txt"), ["--out probe.txt: must end in .png"]),
    ((*PROBE, "--data", "broken", "--min_count", "2"), ["striped/bad.png: not an image"]),
    ((*LOOK, "--layer", "features.99", "--channel", "0"), ["--layer features.99", "no such block", "features.9"]),
    ((*LOOK, "--layer", "features.3", "--channel", "24"), ["--channel 24: features.3 has 24 channels, 0 to 23"]),
    ((*LOOK, "--layer", "features.3", "--channel", "-1"), ["--channel", "-1"]),
    ((*LOOK, "--layer", "features.3"), ["--channel must be set: features.3 has 24, 0 to 23"]),
    ((*LOOK, "--layer", "features.3", "--image", "no.png"), ["no.png: cannot read this image"]),
    ((*LOOK, "--layer", "features.3", "--channel", "0", "--images", "no"), ["--images no: no such folder"]),
    ((*LOOK, "--layer", "features.3", "--channel", "0", "--images", "empty"), ["empty: no image in this folder"]),
    ((*LOOK, "--layer", "features.3", "--image", "a", "--images", "b"), ["give one of the two"]),
]


@pytest.mark.parametrize(("arguments", "expected"), WRONG, ids=[" ".join(arguments[-2:]) for arguments, _ in WRONG])
def test_what_is_wrong_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], expected: list[str]
) -> None:
    for name in ("plain", "striped"):
        (folder / "broken" / name).mkdir(parents=True, exist_ok=True)
        for number in range(4):
            file = folder / "broken" / name / f"{number}.png"
            file.write_bytes((folder / "pictures" / name / f"{number}.png").read_bytes())
    (folder / "broken" / "striped" / "bad.png").write_text("no picture")
    message = error(capsys, *arguments)
    for part in expected:
        assert part in message


# Heat maps


def big_picture() -> str:
    """A photograph of 288 x 400 pixels, grey but for a striped part at the right."""
    image = np.full((288, 400, 3), 100, np.uint8)
    image[:, 260::4] = 200
    Image.fromarray(image).save("big.png")
    return "big.png"


def test_a_heat_map_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    """The first picture is the photograph itself, and a class is drawn for each that is named."""
    cli.main(["heatmap", big_picture(), *BACKBONE, "--classes", "tench, goldfish", "--out", "new/heat.png"])
    printed = capsys.readouterr().err
    assert "3 x 7 windows of 224 pixels, 32 pixels apart" in printed
    assert "tench: 0.0" in printed
    assert Image.open("new/heat.png").width > 3 * 400


def test_a_heat_map_of_a_classifier_that_was_trained_here(capsys: pytest.CaptureFixture[str]) -> None:
    write_classes(Path("classes"), train=2, val=1)
    settings = ["--model", "Classifier", "--model.backbone", "ResNet"]
    settings += ["--model.backbone.name", "resnet18", "--data", "ClassificationDataModule", "--data.root", "classes"]
    settings += [
        "--data.transforms.RandomResizedCrop.size",
        "64",
        "--data.num_workers",
        "0",
        "--trainer.max_epochs",
        "1",
        "--name",
        "looked",
    ]
    cli.main(["train", *settings, "--trainer.accelerator", "cpu"])
    report = json.loads(Path("runs/looked/report.json").read_text())
    metrics = json.loads(Path("runs/looked/metrics.json").read_text())
    assert report["verdict"]["figures"][0]["value"] == pytest.approx(metrics["top1"], rel=1e-5)
    assert sum(one["images"] for one in report["classes"]) == len(report["images"]) == 3
    wrong = sum(not right for right in report["images"].values())
    assert Path("runs/looked/report.html").read_text().count("<figure") == wrong
    capsys.readouterr()
    cli.main(["heatmap", big_picture(), "--checkpoint", "runs/looked/last.ckpt", "--count", "2", "--out", "own.png"])
    printed = capsys.readouterr().err
    assert "8 x 12 windows of 64 pixels, 32 pixels apart" in printed
    assert sum(f"{name}: " in printed for name in COLOURS) == 2
    options = ["--checkpoint", "runs/looked/last.ckpt", "--evidence", "true", "--out", "evidence.png"]
    cli.main(["heatmap", big_picture(), *options])
    assert Image.open("evidence.png").size[0] > 3 * 400
    y, x = np.mgrid[:64, :64] - 32
    for name, mask in zip(COLOURS, (x**2 + y**2 < 400, np.maximum(abs(x), abs(y)) < 18, abs(x) < 8), strict=True):
        Path("objects_of", name).mkdir(parents=True)
        pixels = np.where(mask[..., None], COLOURS[name], 220).astype(np.uint8)
        Image.fromarray(pixels).save(f"objects_of/{name}/0.png")
    capsys.readouterr()
    cli.main(["bias", "objects_of", "--checkpoints", "runs/looked/last.ckpt", "--count", "1", "--size", "64"])
    assert sum(map(int, capsys.readouterr().out.splitlines()[1].split()[1:4])) == 6  # pairs of classes
    decisions = Path("bias/decisions.csv").read_text().splitlines()
    assert decisions[0] == "image,shape,texture,last"
    assert decisions[1].startswith("images/0000.png,blue,green,")
    with pytest.raises(SystemExit):
        cli.main(["heatmap", "pictures/plain/0.png", "--checkpoint", "runs/looked/last.ckpt"])
    said = "its shorter side has 40 pixels, fewer than the 64 that the classifier looks at; --side 64 makes it as large"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give one of --checkpoint, a classifier that was trained here, and --backbone"),
        (["--backbone", "MobileNetV2"], "backbone.weights must be set"),
        ([*BACKBONE, "--classes", "tensh"], "--classes tensh: there is no such class; did you mean tench"),
        ([*BACKBONE, "--count", "0"], "--count 0: must be at least 1"),
        ([*BACKBONE, "--out", "heat.txt"], "--out heat.txt: must end in .png"),
        (["--checkpoint", "none.ckpt"], "none.ckpt: no such file"),
        ([*BACKBONE, "--side", "0"], "--side 0: must be at least the 224 pixels that the classifier looks at"),
        ([*BACKBONE, "--side", "-5"], "--side -5: must be at least the 224 pixels"),
        (
            [*BACKBONE[:-1], "headless.pth"],
            "backbone.weights headless.pth: have no classifier.1.weight of ImageNet's 1000 classes, without which",
        ),
        (
            [*BACKBONE[:-1], "ten.pth"],
            "backbone.weights ten.pth: have no classifier.1.weight of ImageNet's 1000 classes, without which",
        ),
    ],
)
def test_heat_maps_that_cannot_be_drawn(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    state = torch.load("weights.pth", weights_only=True)
    torch.save({name: value for name, value in state.items() if "classifier" not in name}, "headless.pth")
    torch.save({name: value[:10] if "classifier" in name else value for name, value in state.items()}, "ten.pth")
    with pytest.raises(SystemExit):
        cli.main(["heatmap", big_picture(), *arguments])
    assert said in capsys.readouterr().err
    assert not Path("heatmap.png").exists()


def test_classifiers_at_the_side_are_not_needed_for_a_heat_map() -> None:
    """And which tensors of the head begin at random is known."""
    with torch.device("meta"):
        state = torchvision.models.googlenet(init_weights=False).state_dict()
    state = {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in state.items() if "aux" not in name}
    torch.save(state, "no_aux.pth")
    backbone = GoogLeNet(weights="no_aux.pth")
    backbone.classifier(1000)
    assert backbone.missing_head_tensors == []
    backbone.classifier(10)
    assert backbone.missing_head_tensors == ["fc.weight", "fc.bias"]
