"""`detseg embed`: a map of a data set by a network's features; near-duplicates, outliers and doubtful labels."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jsonargparse import ArgumentParser, Namespace
from numpy.typing import NDArray
from PIL import Image

from detseg import checkpoint
from detseg.analysis.charts import labelled_grid
from detseg.analysis.embeddings import (
    Embedding,
    Neighbours,
    changed,
    class_overlap,
    embed,
    label_confidence,
    last_layer,
    nearest_neighbours,
    neighbour_vote,
    project,
    similar,
)
from detseg.analysis.maps import Points, atlas, draw_map, page_values, thumbnail_side, unit_square
from detseg.check.rendering import data_uri, render
from detseg.cli._backbones import backbone_parser, build, find_block, prepare
from detseg.cli._configs import find_configs, nearest
from detseg.cli._console import printable
from detseg.cli._devices import find_device
from detseg.cli._parser import instantiate, parse, require_minimum
from detseg.data.annotations.images import SUFFIXES, image_size, read_image
from detseg.data.annotations.table import ImageTable
from detseg.data.formats.base import DatasetFormat, Task
from detseg.data.formats.format_detection import AUTO, detect_any
from detseg.data.modules.crops import ClassificationCrops, concat, from_annotations, from_images, square
from detseg.data.near_duplicates import Pair, near_duplicates
from detseg.errors import ConfigError, DataError
from detseg.folders import make_folder, writing
from detseg.modules.backbones import Backbone, ConvNet

log = logging.getLogger(__name__)

TASKS: tuple[Task, ...] = ("detection", "classification", "semantic_segmentation")  # the first that there is
NEAREST = 10  # neighbours of an image that count for isolation and overlap
SHOWN = 5  # of these in a page
LISTED = 5  # images or pairs of classes in the summary
STEPS = 7  # of each change of --image
USAGE = """FOLDER --checkpoint FILE | --backbone CLASS --backbone.weights FILE
      [--layer NAME] [--objects true] [--method tsne|pca|umap] [--image FILE] [--out FOLDER]"""


class Items(NamedTuple):
    """The N images, or objects, of a data set; its root, and the split and the size of each in pixels."""

    root: Path
    pictures: ClassificationCrops
    splits: list[str]
    split: NDArray[np.int64]  # (N,)
    sizes: NDArray[np.float64]  # (N,) square root of the area

    def name(self, row: int) -> str:
        """Path of the image below the root."""
        path = self.pictures.files[row]
        return str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)

    def class_name(self, row: int) -> str:
        """Name of its class, empty for none."""
        label = self.pictures.labels[row]
        return self.pictures.classes[label] if label >= 0 else ""


class Findings(NamedTuple):
    """Values of each of the N items, and pairs of copies."""

    neighbours: Neighbours
    isolation: NDArray[np.float32]  # (N,) mean distance of the nearest neighbours
    confidence: NDArray[np.float64]  # (N,) in the label, NaN if unknown
    copies: list[Pair]


def run(arguments: Sequence[str]) -> None:
    """Embed a data set; write its map, its near-duplicates and a table of its images."""
    parser = _parser()
    options = parse(parser, find_configs(arguments))
    require_minimum(options, size=32, batch_size=1, max_count=4)
    make_folder("--out", options.out)
    if bool(options.checkpoint) == bool(options.get("backbone")):
        raise ConfigError("give either --checkpoint, a model trained by detseg, or --backbone")
    built = build(parser, options) if options.get("backbone") else instantiate(parser, options)
    backbone, layer = _backbone(built)
    items = _items(built)
    log.info("%d %s through %s", len(items.split), "objects" if options.objects else "images", layer or "the backbone")
    embedding = embed(backbone, items.pictures.batches(options.size, options.batch_size), layer)
    findings = _findings(items, embedding, options)
    points, paths = _points(backbone, layer, embedding, options)
    with writing("--out", options.out):
        _write_tables(items, findings, points, options.out)
        title = f"{options.folder.resolve().name} by {layer or 'the last map'}, {options.method}"
        labels, classes = items.pictures.labels, items.pictures.classes
        picture = draw_map(title, points, labels, classes, embedding.thumbnails, paths)
        Image.fromarray(picture).save(options.out / "map.png")
        summary = _summary(items, findings)
        page = _page(title, items, embedding, findings, points, paths)
        (options.out / "map.html").write_text(page, encoding="utf-8", errors="backslashreplace")
        if options.image:
            _write_similar(items, embedding, backbone, layer, options)
    print(printable("\n".join(summary)))
    log.info("%s: map.png, map.html, images.csv%s", options.out, "" if options.objects else ", duplicates.csv")


def _parser() -> ArgumentParser:
    parser = backbone_parser("embed", USAGE, Path("embed"), Backbone)
    parser.add_argument("folder", type=Path, help="A data set in any supported format, or a folder of images.")
    parser.add_argument("--format", type=str | DatasetFormat, default=AUTO, help="Of the data; default: detected.")
    parser.add_argument("--checkpoint", type=Path | None, help="A model trained by detseg, instead of a backbone.")
    parser.add_argument("--layer", type=str | None, help="A module of the backbone; default: its last.")
    parser.add_argument("--objects", type=bool, default=False, help="Embed the objects instead of the images.")
    parser.add_argument("--method", type=Literal["tsne", "pca", "umap"], default="tsne", help="Of the map.")
    parser.add_argument("--image", type=Path | None, help="Show its neighbours, and the paths of its changes.")
    parser.add_argument("--max_count", type=int, default=20_000, help="Largest number of images; more are sampled.")
    parser.add_argument("--batch_size", type=int, default=32, help="Images per batch.")
    return parser


def _backbone(options: Namespace) -> tuple[Backbone, str]:
    """Return the backbone and the name of the layer. Raises ConfigError for a layer that there is not."""
    backbone: Backbone = options.backbone
    if options.checkpoint:
        model: Any = checkpoint.load_model(options.checkpoint)
        backbone = prepare(model.backbone, find_device(options.device))
    if options.layer is None:
        return backbone, last_layer(backbone)
    if isinstance(backbone, ConvNet):
        return backbone, find_block("layer", options.layer, backbone)
    layers = [name for name, _ in backbone.named_modules() if name]
    if options.layer not in layers:
        raise ConfigError(f"--layer {options.layer}: no such module{nearest(options.layer, layers)}")
    return backbone, options.layer


def _items(options: Namespace) -> Items:
    """List the images or objects of all splits. Raises DataError if there are fewer than four."""
    root = options.folder
    tables = _tables(root, options.format, options.objects)
    classes = tuple(dict.fromkeys(name for table in tables.values() for name in table.classes))
    read = from_annotations if options.objects else from_images
    parts = [read(table.relabel(classes)) for table in tables.values()]
    pictures = concat(parts)
    split = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    if len(pictures) > options.max_count:
        log.warning("%d of %d are used, because of --max_count", options.max_count, len(pictures))
        generator = np.random.default_rng(options.seed)
        kept = np.sort(generator.choice(len(pictures), options.max_count, replace=False))
        pictures, split = pictures.take(kept), split[kept]
    if len(pictures) < 4:
        raise DataError(f"{root}: has {len(pictures)} {'objects' if options.objects else 'images'}, too few for a map")
    if pictures.boxes is not None:
        sizes = np.sqrt(np.prod(pictures.boxes[:, 2:] - pictures.boxes[:, :2], axis=1))
    else:
        sizes = np.array([np.sqrt(np.prod(image_size(file), dtype=float)) for file in pictures.files])
    return Items(root, pictures, list(tables), split, sizes)


def _tables(root: Path, format: str | DatasetFormat, objects: bool) -> dict[str, Any]:
    """Read all splits of a data set; a folder of images without labels is one split of images without a class."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the folder of your data")
    try:
        source = detect_any(root, format, ["detection"] if objects else TASKS)
    except DataError:
        files = sorted(path for path in root.iterdir() if path.suffix.lower() in SUFFIXES)
        if objects or not files:
            raise
        log.info("%s: taken for %d images without labels", root, len(files))
        return {"all": ImageTable((), (), root, np.array([file.name for file in files]))}
    return {split: source.read(split) for split in source.splits}


def _findings(items: Items, embedding: Embedding, options: Namespace) -> Findings:
    neighbours = nearest_neighbours(embedding.features, min(NEAREST, len(items.split) - 1))
    isolation = neighbours.distances.mean(axis=1)
    confidence = label_confidence(embedding.features, items.pictures.labels, options.seed)
    return Findings(neighbours, isolation, confidence, [] if options.objects else near_duplicates(embedding.thumbnails))


def _points(
    backbone: Backbone, layer: str, embedding: Embedding, options: Namespace
) -> tuple[Points, dict[str, Points]]:
    """Map all images, and with --image its changes, to the unit square."""
    if options.image is None:
        return unit_square(project(embedding.features, options.method, options.seed)), {}
    image = square(read_image(options.image), options.size)
    changes = changed(image, STEPS)
    batch = torch.from_numpy(np.stack([step for steps in changes.values() for step in steps])).permute(0, 3, 1, 2)
    added = embed(backbone, [batch], layer).features
    points = unit_square(project(np.concatenate([embedding.features, added]), options.method, options.seed))
    count = len(embedding.features)
    paths = {name: points[count + k * STEPS : count + (k + 1) * STEPS] for k, name in enumerate(changes)}
    return points[:count], paths


def _write_tables(items: Items, findings: Findings, points: Points, out: Path) -> None:
    with (out / "images.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "split", "class", "size", "x", "y", "isolation", "confidence", "nearest", "box"])
        for row in range(len(points)):
            boxes, confidence = items.pictures.boxes, findings.confidence[row]
            values = [items.name(row), items.splits[items.split[row]], items.class_name(row), f"{items.sizes[row]:.1f}"]
            values += [f"{value:.4f}" for value in (*points[row], findings.isolation[row])]
            values += [
                "" if np.isnan(confidence) else f"{confidence:.4f}",
                items.name(findings.neighbours.indices[row, 0]),
            ]
            writer.writerow([*values, "" if boxes is None else " ".join(f"{value:g}" for value in boxes[row])])
    if items.pictures.boxes is not None:
        return
    with (out / "duplicates.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "same_as", "similarity"])
        for pair in findings.copies:
            writer.writerow([items.name(pair.second), items.name(pair.first), f"{pair.similarity:.4f}"])


def _summary(items: Items, findings: Findings) -> list[str]:
    """List near-duplicates, outliers, doubtful labels, and classes that overlap."""
    lines = []
    if items.pictures.boxes is None:
        pairs = Counter(tuple(items.splits[items.split[row]] for row in pair[:2]) for pair in findings.copies)
        places = [f"{count} {'within ' + a if a == b else f'of {b} in {a}'}" for (a, b), count in pairs.items()]
        lines.append(f"near-duplicates: {len(findings.copies)}" + (f" ({', '.join(places)})" if places else ""))
    isolated = np.argsort(-findings.isolation, kind="stable")[:LISTED]
    lines += ["most isolated:", *(f"  {findings.isolation[row]:.3f}  {items.name(row)}" for row in isolated)]
    doubtful = np.argsort(findings.confidence, kind="stable")[:LISTED]
    doubtful = doubtful[~np.isnan(findings.confidence[doubtful])]
    if len(doubtful):
        lines.append("lowest confidence in the label:")
        lines += [f"  {findings.confidence[row]:.3f}  {items.class_name(row)}: {items.name(row)}" for row in doubtful]
    classes = items.pictures.classes
    overlap = class_overlap(findings.neighbours, items.pictures.labels, len(classes))
    np.fill_diagonal(overlap, 0)
    pairs_of_classes = [divmod(int(place), len(classes)) for place in np.argsort(-overlap, axis=None)[:LISTED]]
    overlapping = [(a, b) for a, b in pairs_of_classes if overlap[a, b] > 0]
    if overlapping:
        lines.append("classes that overlap, by the fraction of neighbours:")
        lines += [f"  {100 * overlap[a, b]:.0f} % of {classes[a]} are {classes[b]}" for a, b in overlapping]
    return lines


def _page(
    title: str, items: Items, embedding: Embedding, findings: Findings, points: Points, paths: dict[str, Points]
) -> str:
    side = thumbnail_side(len(points))
    sheet, columns = atlas(embedding.thumbnails, side)
    labels = items.pictures.labels
    vote = neighbour_vote(findings.neighbours, labels, len(items.pictures.classes))
    error = np.where((labels < 0) | (vote < 0), -1, labels != vote)
    doubt = [None if np.isnan(value) else round(1 - value, 3) for value in findings.confidence.tolist()]
    data = {
        **page_values(points, paths),
        "files": [items.name(row) for row in range(len(points))],
        "class": labels.tolist(),
        "classes": list(items.pictures.classes),
        "split": items.split.tolist(),
        "splits": items.splits,
        "size": items.sizes.round().astype(int).tolist(),
        "doubt": doubt,
        "error": error.tolist(),
        "errors": ["as its neighbours", "unlike its neighbours"],
        "isolation": [round(value, 3) for value in findings.isolation.tolist()],
        "near": findings.neighbours.indices[:, :SHOWN].tolist(),
        "atlas": data_uri(sheet),
        "side": side,
        "columns": columns,
    }
    summary = f"{len(points):,} {'images' if items.pictures.boxes is None else 'objects'}"
    if items.pictures.boxes is None:
        summary += f", {len(findings.copies):,} near-duplicates"
    return render("embed.html.j2", title=title, summary=summary, data=data)


def _write_similar(items: Items, embedding: Embedding, backbone: Backbone, layer: str, options: Namespace) -> None:
    """Write the nearest neighbours of --image as a picture."""
    image = square(read_image(options.image), options.size)
    query = embed(backbone, [torch.from_numpy(image).permute(2, 0, 1)[None]], layer).features
    rows, distances = similar(embedding.features, query[0], 11)
    pictures = [image, *(items.pictures.read(row, options.size) for row in rows)]
    texts = [options.image.name]
    texts += [f"{distance:.3f} {items.class_name(row)}" for row, distance in zip(rows, distances, strict=True)]
    title = f"Nearest neighbours of {options.image.name} by {layer or 'the last map'} (cosine distance)"
    Image.fromarray(labelled_grid(title, pictures, texts, 6, 160)).save(options.out / "neighbours.png")
