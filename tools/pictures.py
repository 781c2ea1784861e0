"""Make the pictures of the documentation from synthetic shapes, by the commands that it shows.

    python tools/pictures.py [--out docs/pictures] [--only NAME ...]
    python tools/pictures.py --readme runs/faster_rcnn_shapes/best.ckpt  # trained with --trainer.max_epochs 30

Trains two classifiers, two detectors and three FCNs first, for the pictures that need one. Data and runs are kept, in
``build/pictures`` and ``runs/lecture_*``. `tools/lecture.py` runs all commands of the lecture, with shorter trainings.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

import detseg
from detseg import cli
from detseg.data import ShapeCrops, Shapes

WORK = Path("build/pictures")
CROPS, SHAPES = WORK / "shape_crops", WORK / "shapes"
PHOTO = str(SHAPES / "coco/train/000006.jpg")
WIDTH, SIZE = 1100, 60_000  # pixels and bytes, at most
README_IMAGES, ZOOM = (415, 422, 434, 460), 3

CLASSIFIER, BAGNET, DETECTOR, MASKS, *FCNS = (
    f"runs/lecture_{name}/last.ckpt"
    for name in ("resnet18", "bagnet17", "faster_rcnn", "mask_rcnn", "fcn16s", "fcn8s", "fcn4s")
)
CLASSIFICATION = [
    *("degradation_resnet18.yaml", "--data.root", str(CROPS), "--data.size", "48"),
    *("--trainer.check_val_every_n_epoch", "1"),
]
TRAININGS = {
    CLASSIFIER: [*CLASSIFICATION, "--trainer.max_epochs", "8", "--model.backbone.width", "64"],
    BAGNET: [
        *(*CLASSIFICATION, "--trainer.max_epochs", "12"),
        *("--model.backbone", "BagNet", "--model.backbone.name", "bagnet17"),
    ],
    DETECTOR: ["faster_rcnn_shapes.yaml", "--data.root", str(SHAPES)],
    MASKS: ["mask_rcnn_shapes.yaml", "--data.root", str(SHAPES)],
    **{
        file: [
            *("fcn_shapes.yaml", "--data.root", str(SHAPES), "--trainer.max_epochs", "30"),
            *("--model.stride", stride, "--model.backbone.weights", CLASSIFIER),
        ]
        for file, stride in zip(FCNS, ("16", "8", "4"), strict=True)
    },
}
NETWORK = ["--backbone", "ResNet", "--backbone.name", "resnet18", "--backbone.weights", CLASSIFIER]

PICTURES: dict[str, list[str]] = {
    "convolution": ["draw", "convolution", "--size", "5", "--kernel", "3", "--stride", "2", "--padding", "1"],
    "transposed": [
        *("draw", "convolution", "--size", "3", "--kernel", "3", "--stride", "2", "--padding", "1"),
        *("--transposed", "true"),
    ],
    "stack": ["draw", "receptive-fields", "--stack", "3,3,3"],
    "backbones": ["models"],
    "gradients": ["draw", "gradients", "--data", str(CROPS)],
    "auxiliary": ["draw", "gradients", "--data", str(CROPS), "--backbone", "GoogLeNet", "--steps", "40"],
    "anchors": ["draw", "anchors", str(SHAPES / "coco"), "--index", "5", "--side", "320"],
    "roi_pooling": ["draw", "roi-pooling", PHOTO, "--box", "21,35,97,103", "--stride", "16", "--bins", "3"],
    "fields": ["draw", "receptive-fields", *NETWORK, "--size", "128", "--images", str(SHAPES / "coco/val")],
    "visualize": ["visualize", *NETWORK, "--layer", "layer3", "--channel", "0,1,2,3", "--size", "64"],
    "probe": ["probe", *NETWORK, "--data", str(CROPS), "--size", "48", "--max_pictures", "500", "--random", "1"],
    "heatmap": ["heatmap", PHOTO, "--checkpoint", CLASSIFIER],
    "evidence": ["heatmap", PHOTO, "--checkpoint", BAGNET, "--evidence", "true"],
    "efficiency": ["draw", "efficiency", PHOTO, "--checkpoints", f"{CLASSIFIER},{BAGNET}"],
    "proposals": ["draw", "proposals", str(SHAPES / "coco"), "--checkpoints", DETECTOR, "--side", "128"],
    "masks": ["draw", "predictions", str(SHAPES / "coco/val"), "--checkpoints", MASKS],
    "predictions": ["draw", "predictions", str(SHAPES / "coco/val"), "--checkpoints", DETECTOR],
    "fcn": ["draw", "predictions", str(SHAPES / "coco/val"), "--checkpoints", ",".join(FCNS), "--count", "3"],
}
FOLDERS = {  # pictures that are one of several files in a folder
    "embed": ("map.png", ["embed", str(CROPS), *NETWORK, "--size", "48", "--max_count", "500"]),
    "conflicts": ("conflicts.png", ["bias", str(WORK / "textured"), "--checkpoints", CLASSIFIER, "--count", "1"]),
}


def prepare(commands: list[list[str]]) -> None:
    """Draw the shapes, and train the networks that ``commands`` use, where that has not been done."""
    Shapes(str(SHAPES)).prepare()
    ShapeCrops(str(CROPS)).read("train")
    write_textured(WORK / "textured")
    used = [*commands]
    for file, training in reversed(TRAININGS.items()):  # a later one may begin with the weights of an earlier one
        used += [training] if any(file in argument for command in used for argument in command) else []
    for file, training in TRAININGS.items():
        if training in used and not Path(file).exists():
            config, *settings = training
            cli.main(["train", "--config", config, "--name", Path(file).parent.name, *settings])


def write_textured(root: Path) -> None:
    """Draw one textured object of each class on a plain background, for cue-conflict images."""
    from detseg.data.modules.shapes_generator import CLASSES

    generator = np.random.default_rng(0)
    y, x = np.mgrid[:96, :96] - 48.0
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    masks = {
        "circle": radius < 36,
        "ring": (radius < 38) & (radius > 18),
        "square": np.maximum(abs(x), abs(y)) < 32,
        "star": radius < 26 + 14 * np.cos(5 * angle),
        "triangle": (y < 30) & (y > 2 * abs(x) - 40),
    }
    patterns = [
        np.sin(x),
        np.sin(0.7 * y),
        np.sin(x / 2) * np.sin(y / 2),
        np.sin(radius),
        generator.normal(size=x.shape),
    ]
    colors = generator.uniform(10, 80, (len(CLASSES), 3))  # far from the background
    for name, pattern, color in zip(CLASSES, patterns, colors, strict=True):
        image = np.full((96, 96, 3), 235.0)
        image[masks[name]] = (color + 90 * (pattern[..., None] > 0))[masks[name]]
        (root / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(root / name / "0.png")


def draw(name: str, out: Path) -> None:
    """Run the command of a picture, and save the picture in ``out``, small enough for a page."""
    drawn = WORK / f"{name}.png"
    if name in PICTURES:
        cli.main([*PICTURES[name], "--out", str(drawn)])
    else:
        file, arguments = FOLDERS[name]
        cli.main([*arguments, "--out", str(WORK / name)])
        drawn = WORK / name / file
    image = Image.open(drawn).convert("RGB")
    image.thumbnail((WIDTH, 10 * WIDTH))
    for quality in (80, 50, 25):
        target = out / f"{name}.webp"
        image.save(target, quality=quality)
        if target.stat().st_size <= SIZE:
            break


def draw_readme(checkpoint: str, target: Path) -> None:
    """Draw detections on four validation images, enlarged so that the names fit."""
    Shapes(str(SHAPES)).prepare()
    paths = [SHAPES / f"coco/val/{number:06}.jpg" for number in README_IMAGES]
    pictures = []
    for path, result in zip(paths, detseg.load(checkpoint)(paths, threshold=0.7), strict=True):
        image = Image.open(path).convert("RGB")
        image = image.resize((ZOOM * image.width, ZOOM * image.height), Image.Resampling.LANCZOS)
        large = {"image_size": (image.height, image.width), "boxes": ZOOM * result.boxes, "pixels": np.asarray(image)}
        pictures.append(replace(result, **large).plot())
    height = min(picture.height for picture in pictures)
    pictures = [one.resize((one.width * height // one.height, height)) for one in pictures]
    strip = Image.new("RGB", (sum(one.width + 8 for one in pictures) - 8, height), "white")
    left = 0
    for picture in pictures:
        strip.paste(picture, (left, 0))
        left += picture.width + 8
    strip.save(target, quality=85)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    parser.add_argument("--only", nargs="+", choices=[*PICTURES, *FOLDERS], default=[*PICTURES, *FOLDERS])
    parser.add_argument("--readme", metavar="CHECKPOINT", help="only draw docs/predictions.jpg, with this detector")
    options = parser.parse_args()
    if options.readme:
        draw_readme(options.readme, Path("docs/predictions.jpg"))
        return
    WORK.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    prepare([PICTURES.get(name) or FOLDERS[name][1] for name in options.only])
    for name in options.only:
        draw(name, options.out)


if __name__ == "__main__":
    main()
