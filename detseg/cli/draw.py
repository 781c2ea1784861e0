"""`detseg draw TOPIC`: pictures of the ideas that the models are built from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jsonargparse import ArgumentParser, Namespace
from numpy.typing import NDArray
from PIL import Image

from detseg import checkpoint
from detseg.analysis.anchors import count_matches, draw_anchors, draw_proposals, match_anchors
from detseg.analysis.convolution import Convolution, draw_convolution
from detseg.analysis.efficiency import Cost, draw_efficiency, measure
from detseg.analysis.gradients import VARIANTS, DeepStack, Trained, draw_gradients, train_network
from detseg.analysis.probing import spread_depths
from detseg.analysis.receptive_fields import backbone_fields, draw_fields, stack_fields
from detseg.analysis.roi_pooling import draw_misalignment, misalignment
from detseg.cli._backbones import backbone_parser, build, check_picture, checkpoint_names, find_block
from detseg.cli._configs import find_configs
from detseg.cli._parser import instantiate, make_parser, parse, require_minimum
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.images import read_image
from detseg.data.formats.format_detection import AUTO, detect_source
from detseg.data.modules.crops import ClassificationCrops, from_images, shorter_side, square
from detseg.draw import ImageArray, grid
from detseg.errors import ConfigError, DataError
from detseg.inference import Predictor, load
from detseg.inference.sources import find_images
from detseg.models import Classifier, FasterRCNN
from detseg.modules import AnchorGenerator
from detseg.modules.backbones import ConvNet
from detseg.modules.rpn import RPN

log = logging.getLogger(__name__)

PYRAMID = (4, 8, 16, 32, 64)  # strides
RANDOM_IMAGES = 8  # for gradients, where no folder of images is given


def run(arguments: Sequence[str]) -> None:
    """Draw the topic that the first argument names."""
    if not arguments or arguments[0] in ("--help", "-h"):
        print("usage: detseg draw TOPIC [--help] ...\n")
        print("\n".join(f"  {name:<17} {topic.__doc__}" for name, topic in TOPICS.items()))
        return
    name, *options = arguments
    if name not in TOPICS:
        raise ConfigError(f"{name}: no such topic; choose from {', '.join(TOPICS)}")
    TOPICS[name](options)


def convolution(arguments: Sequence[str]) -> None:
    """the cells that a convolution reads, and its transpose writes"""
    parser = _parser("convolution", "[--size 5] [--kernel 3] [--stride 2] [--padding 1] [--transposed true]")
    for name, value in {"size": 5, "kernel": 3, "stride": 1, "padding": 0, "dilation": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--transposed", type=bool, default=False)
    options = _parse(parser, arguments, size=1, kernel=1, stride=1, padding=0, dilation=1)
    layer = Convolution(
        options.size, options.kernel, options.stride, options.padding, options.dilation, options.transposed
    )
    if layer.output_size < 1:
        raise ConfigError(f"--kernel {options.kernel}: is larger than the map; lower it, or raise --size or --padding")
    _save(draw_convolution(layer), options.out)
    print(layer)


def receptive_fields(arguments: Sequence[str]) -> None:
    """theoretical and effective receptive fields of a backbone's layers, or of a stack of convolutions"""
    parser = backbone_parser(
        "draw receptive-fields",
        "--backbone CLASS --backbone.weights FILE [--layers NAME,...] [--images FOLDER] | --stack 3,3,3",
        Path("receptive-fields.png"),
    )
    parser.add_argument("--layers", type=str | None, help="Comma-separated blocks; default: about eight.")
    parser.add_argument("--images", type=str | None, help="Folder of images for the gradients; default: noise.")
    parser.add_argument("--stack", type=str | None, help="Comma-separated sides of convolutions, without a backbone.")
    options = _parse(parser, find_configs(arguments), size=32)
    if options.stack:
        kernels = [int(word) if word.strip().isdecimal() else 0 for word in options.stack.split(",")]
        if any(kernel % 2 == 0 for kernel in kernels):
            raise ConfigError(f"--stack {options.stack}: must be odd numbers, such as 3,3,3")
        fields, title = stack_fields(kernels, 20, options.seed), "Stacked convolutions"
    else:
        if not options.get("backbone"):
            raise ConfigError("give --backbone with its weights, or --stack 3,3,3")
        backbone = build(parser, options).backbone
        names = options.layers.split(",") if options.layers else spread_depths(backbone)
        chosen = [find_block("layers", name.strip(), backbone) for name in names]
        fields = backbone_fields(backbone, chosen, _squares(options))
        title = f"Receptive fields of {backbone.name}: gradient of the central cell, frame around the theoretical field"
    _save(draw_fields(title, fields), options.out)
    for field in fields:
        print(f"{field.name}: {field.sides[0]} pixels, effective {field.sides[1]:.0f}")


def anchors(arguments: Sequence[str]) -> None:
    """anchors on an image of a data set, and those that match its objects"""
    parser = _parser("anchors", "FOLDER [--index 0] [--side 800] [--checkpoint FILE]")
    parser.add_argument("folder", type=Path, help="A detection data set.")
    parser.add_argument("--index", type=int, default=0, help="Number of the image in the first split.")
    parser.add_argument("--format", type=str, default=AUTO, help="Of the data; default: detected.")
    parser.add_argument("--side", type=int, default=800, help="Shorter side of the image, in pixels.")
    parser.add_argument("--checkpoint", type=Path | None, help="Faster or Mask R-CNN; default: FPN's anchors.")
    options = _parse(parser, arguments, index=0, side=32)
    image, boxes = _labelled(options)
    rpn, strides, generator = RPN(), list(PYRAMID), AnchorGenerator()
    if options.checkpoint:
        model = _faster_rcnn(options.checkpoint)
        rpn, strides, generator = model.rpn, model.backbone.strides, model.rpn.anchor_generator
    levels = match_anchors(generator, rpn.matcher, strides, (image.shape[0], image.shape[1]), boxes)
    _save(draw_anchors(image, boxes, levels), options.out)
    print("stride  anchors  positive  negative  ignored")
    for counts in count_matches(levels):
        print("{:>6}  {:>7,}  {:>8,}  {:>8,}  {:>7,}".format(*counts))


def proposals(arguments: Sequence[str]) -> None:
    """the best proposals of the region proposal network, of one or more checkpoints side by side"""
    parser = _parser("proposals", "FOLDER --checkpoints FILE,... [--index 0] [--count 30]")
    parser.add_argument("folder", type=Path, help="A detection data set.")
    parser.add_argument("--checkpoints", type=str, required=True, help="Comma-separated, such as those of one run.")
    parser.add_argument("--index", type=int, default=0, help="Number of the image in the first split.")
    parser.add_argument("--format", type=str, default=AUTO, help="Of the data; default: detected.")
    parser.add_argument("--side", type=int, default=800, help="Shorter side of the image, in pixels.")
    parser.add_argument("--count", type=int, default=30, help="Proposals of each checkpoint.")
    options = _parse(parser, arguments, index=0, side=32, count=1)
    image, boxes = _labelled(options)
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
    sizes = torch.tensor([image.shape[:2]])
    best = {}
    for name, path in checkpoint_names(options.checkpoints).items():
        model = _faster_rcnn(Path(path)).eval()
        with torch.inference_mode():
            features = model.backbone(pixels, sizes)
            candidates = model.rpn.propose(model.rpn(features, image.shape[:2]), sizes, training=False)
        count = min(options.count, int(candidates.valid.sum()))
        assert candidates.scores is not None
        best[name] = candidates.boxes[0, :count].numpy(), candidates.scores[0, :count].numpy()
    _save(draw_proposals(image, boxes, best), options.out)


def roi_pooling(arguments: Sequence[str]) -> None:
    """the misalignment of RoIPool against RoIAlign's, in pixels"""
    parser = _parser("roi-pooling", "IMAGE --box X1,Y1,X2,Y2 [--stride 16] [--bins 7]")
    parser.add_argument("image", type=Path)
    parser.add_argument("--box", type=str, required=True, help="x1,y1,x2,y2 of a region, in pixels.")
    parser.add_argument("--stride", type=int, default=16, help="Of the feature map.")
    parser.add_argument("--bins", type=int, default=7, help="Along a side.")
    options = _parse(parser, arguments, stride=1, bins=1)
    image = read_image(options.image)
    size = image.shape[1::-1]
    try:
        box = np.array([float(word) for word in options.box.split(",")])
        valid = box.shape == (4,) and (box[:2] >= 0).all() and (box[:2] < box[2:]).all() and (box[2:] <= size).all()
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(
            f"--box {options.box}: must be x1,y1,x2,y2 with x1 < x2 and y1 < y2, inside the image of {size[0]} x "
            f"{size[1]} pixels"
        )
    _save(draw_misalignment(image, box, options.stride, options.bins), options.out)
    for name, values in misalignment(box, options.stride, options.bins)._asdict().items():
        print(f"RoI{name.title()}: {values.mean():.2f} pixels off on average, {values.max():.2f} at most")


def gradients(arguments: Sequence[str]) -> None:
    """norms of gradients over the layers: of a deep stack in five variants, or of the blocks of a backbone"""
    parser = _parser("gradients", "[--data FOLDER] [--depth 30] [--width 16] [--steps 150] | --backbone CLASS")
    parser.add_argument("--data", type=Path | None, help="Folder of classes; default: the synthetic shapes.")
    for name, value in {"depth": 30, "width": 16, "steps": 150, "batch_size": 32, "size": 32, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_subclass_arguments(
        ConvNet, "backbone", required=False, help="Such as GoogLeNet, with and without its auxiliary classifiers."
    )
    options = _parse(parser, find_configs(arguments), depth=3, width=1, steps=1, batch_size=2, size=8)
    pictures = _classes(options)
    images = torch.from_numpy(np.stack([pictures.read(row, options.size) for row in range(len(pictures))]))
    labels = torch.from_numpy(pictures.labels)
    generator = np.random.default_rng(options.seed)
    rows = generator.integers(len(images), size=(options.steps, options.batch_size))
    trained: dict[str, Trained] = {}
    for name, model in _deep_networks(parser, options, len(pictures.classes)):
        log.info("%s: %d steps", name, options.steps)
        batches = ((images[chosen].permute(0, 3, 1, 2), labels[chosen]) for chosen in rows)
        trained[name] = train_network(model, batches)
    network = f"{options.depth} convolutions of {options.width} channels"
    if options.get("backbone"):
        network = f"Blocks of {next(iter(trained))}"
    _save(draw_gradients(f"{network} on {len(pictures.classes)} classes", trained), options.out)
    print(f"{'':<28} first layer / last, step 1    after {options.steps}    loss")
    for name, one in trained.items():
        ratios = one.norms[[0, -1], 0] / one.norms[[0, -1], -1].clip(1e-30)
        print(f"{name:<28} {ratios[0]:>26.2g} {ratios[1]:>11.2g} {np.mean(one.losses[-10:]):>7.3f}")


def predictions(arguments: Sequence[str]) -> None:
    """predictions of several checkpoints side by side, such as FCN-32s, 16s and 8s"""
    parser = _parser("predictions", "IMAGE|FOLDER --checkpoints FILE,... [--count 4]")
    parser.add_argument("images", type=str)
    parser.add_argument("--checkpoints", type=str, required=True, help="Comma-separated.")
    parser.add_argument("--count", type=int, default=4, help="Images of a folder.")
    options = _parse(parser, arguments, count=1)
    paths = find_images(options.images)[: options.count]
    names = options.checkpoints.split(",")
    rows: list[list[ImageArray]] = [[read_image(path)] for path in paths]
    for name in names:
        predictor = load(name)
        for row, result in zip(rows, predictor(paths), strict=True):
            row.append(np.asarray(result.plot()))
    _save(grid(rows, 400), options.out)
    print(f"columns: the image, {', '.join(names)}")


def efficiency(arguments: Sequence[str]) -> None:
    """accuracy of checkpoints against parameters, multiply-adds and measured time"""
    parser = _parser("efficiency", "IMAGE --checkpoints FILE,... [--metric NAME] [--repeats 10]")
    parser.add_argument("image", type=Path, help="An image to predict on.")
    parser.add_argument("--checkpoints", type=str, required=True, help="Comma-separated, with metrics of one kind.")
    parser.add_argument("--metric", type=str | None, help="Name of a metric; default: the one that chose the best.")
    parser.add_argument("--repeats", type=int, default=10, help="Predictions whose median time counts.")
    options = _parse(parser, arguments, repeats=1)
    image, costs, metric = read_image(options.image), [], options.metric
    for name in options.checkpoints.split(","):
        task = checkpoint.load(name)
        metric = metric or task.monitor_metrics[0]
        if metric not in task.metric_values:
            known = ", ".join(key for key in task.metric_values if "/" not in key) or "none"
            raise ConfigError(f"{name}: has no metric {metric}; it has {known}; `detseg evaluate` computes them")
        predictor = Predictor(task.model.eval())
        log.info("%s: %d predictions", name, options.repeats)
        multiply_adds, seconds = measure(partial(predictor, image), options.repeats)
        parameters = sum(value.numel() for value in task.model.parameters())
        title = Path(name).parent.name or Path(name).stem
        costs.append(Cost(title, parameters, multiply_adds, seconds, task.metric_values[metric]))
    _save(draw_efficiency(metric, costs), options.out)
    print(f"{'':<24} million parameters  billion multiply-adds  milliseconds  {metric}")
    for cost in costs:
        numbers = f"{cost.parameters / 1e6:>18.2f}  {cost.multiply_adds / 1e9:>21.3f}  {1e3 * cost.seconds:>12.1f}"
        print(f"{cost.name:<24} {numbers}  {cost.metric:.3f}")


TOPICS: dict[str, Callable[[Sequence[str]], None]] = {
    "convolution": convolution,
    "receptive-fields": receptive_fields,
    "gradients": gradients,
    "anchors": anchors,
    "proposals": proposals,
    "roi-pooling": roi_pooling,
    "predictions": predictions,
    "efficiency": efficiency,
}


def _parser(topic: str, usage: str) -> ArgumentParser:
    parser = make_parser(f"draw {topic}", f"{usage} [--out FILE.png]")
    parser.add_argument(
        "--out", type=Path, default=Path(f"{topic.replace('-', '_')}.png"), help="File for the picture."
    )
    return parser


def _parse(parser: ArgumentParser, arguments: Sequence[str], **minima: int) -> Namespace:
    """Parse options. Raises ConfigError for one below its minimum, and for a picture that cannot be written."""
    options = parse(parser, arguments)
    require_minimum(options, **minima)
    check_picture(options.out)
    return options


def _save(picture: ImageArray, out: Path) -> None:
    Image.fromarray(picture).save(out)
    log.info("picture: %s", out)


def _squares(options: Namespace) -> list[torch.Tensor]:
    """Images (1, 3, size, size) of a folder, or noise."""
    if options.images is None:
        noise = np.random.default_rng(options.seed).integers(0, 256, (RANDOM_IMAGES, 3, options.size, options.size))
        return list(torch.from_numpy(noise).split(1))  # type: ignore[no-untyped-call]
    paths = find_images(options.images)[:RANDOM_IMAGES]
    return [torch.from_numpy(square(read_image(path), options.size)).permute(2, 0, 1)[None] for path in paths]


def _labelled(options: Namespace) -> tuple[ImageArray, NDArray[np.float64]]:
    """Return an image of the first split, and its boxes, scaled to a shorter side."""
    source, index = detect_source(options.folder, options.format), options.index
    annotations = source.read(next(iter(source.splits)))
    assert isinstance(annotations, DetectionAnnotations)
    if index >= len(annotations):
        raise DataError(f"--index {index}: {options.folder} has {len(annotations)} images, from 0")
    height, width = annotations.sizes[index].tolist()
    image = shorter_side(annotations.read_image(index, (height, width)), options.side)
    scale = np.tile([image.shape[1] / width, image.shape[0] / height], 2)
    return image, annotations.boxes[annotations.objects(index)] * scale


def _faster_rcnn(path: Path) -> FasterRCNN:
    model = checkpoint.load_model(path)
    if not isinstance(model, FasterRCNN):
        raise ConfigError(f"{path}: holds {type(model).__name__}, which has no region proposal network")
    return model


def _deep_networks(
    parser: ArgumentParser, options: Namespace, num_classes: int
) -> Iterator[tuple[str, DeepStack | Classifier]]:
    """Build the networks of ``gradients``, all from the same seed, by name."""
    if not options.get("backbone"):
        for variant in VARIANTS:
            torch.manual_seed(options.seed)
            yield variant, DeepStack(variant, options.depth, options.width, num_classes)
        return
    for auxiliary in (True, False):
        torch.manual_seed(options.seed)
        backbone: ConvNet = instantiate(parser, options).backbone
        model, name = Classifier(backbone, num_classes), backbone.name
        if not auxiliary:
            model.auxiliary.clear()
            name = f"{name}, last loss alone"
        yield name, model
        if not model.auxiliary:
            return


def _classes(options: Namespace) -> ClassificationCrops:
    """Return the training images of a folder of classes, or of the synthetic shapes."""
    if options.data is None:
        from detseg.data import ShapeCrops  # imports Lightning, which takes seconds

        return from_images(ShapeCrops().read("train"))
    source = detect_source(options.data, task="classification")
    return from_images(source.read(next(iter(source.splits))))
