"""`detseg browse`: show images as the model sees them, after augmentation, with their labels drawn."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from detseg import data as data_sets
from detseg import models
from detseg.check.rendering import PageImage, data_uri, render, shrink
from detseg.cli._configs import SUFFIXES, find_config, find_configs, for_other_data, is_data
from detseg.cli._parser import instantiate, make_parser, parse, require_minimum
from detseg.cli.train import task_of
from detseg.compat import translate_settings
from detseg.data import DetectionDataModule, SegmentationDataModule
from detseg.data.formats.format_detection import detect_any, find_folder
from detseg.data.formats.layout import read_text
from detseg.data.modules.base import BaseDataModule
from detseg.draw import ImageArray, draw, overlay
from detseg.errors import ConfigError
from detseg.folders import check_writable, make_folder, writing
from detseg.ops.rle import paste_mask
from detseg.structures import Sample

log = logging.getLogger(__name__)

SIDE = 640  # pixels of the longer side of a picture in a page
USAGE = """CONFIG.yaml|FOLDER [--out FOLDER|FILE.html] [--split train] [--count 24]
       [--data NAME.yaml|CLASS|FOLDER] [--data.KEY VALUE ...]

  detseg browse faster_rcnn_r50.yaml --data my/folder --out seen.html
  detseg browse my/folder --data.masks valid --data.transforms.Resize.crop 1.0 --out pictures"""


def run(arguments: Sequence[str]) -> None:
    """Draw samples of a data set."""
    data_sets.import_all()
    parser = make_parser("browse", USAGE)
    parser.add_argument("what", type=str, help="A folder of data, or a YAML file for `detseg train` or of data alone.")
    parser.add_subclass_arguments(BaseDataModule, "data", required=True, help="What is to be other than that.")
    parser.add_argument("--out", type=Path, default=Path("browse.html"), help="A page (.html), or a folder.")
    parser.add_argument("--split", type=Literal["train", "val"], default="train", help="With or without changes.")
    parser.add_argument("--count", type=int, default=24, help="Pictures.")
    parser.add_argument("--seed", type=int, default=0, help="Of the choice of pictures, and of their changes.")
    base = task_of(find_configs(["--config", *arguments])).datamodule_cls
    options = parse(parser, [*_data_of(arguments), *for_other_data(find_configs(arguments), base)])
    require_minimum(options, count=1)
    if options.out.suffix == ".html":
        check_writable("--out", options.out)
    elif options.out.is_file():
        raise ConfigError(f"--out {options.out}: is a file; give a folder, or a page (.html)")
    else:
        make_folder("--out", options.out)
    data = instantiate(parser, options).data
    if not isinstance(data, DetectionDataModule | SegmentationDataModule):
        raise ConfigError(f"{options.what}: {type(data).__name__} has neither boxes nor maps of labels to draw")
    if isinstance(data, DetectionDataModule):
        data.proposals = None  # not drawn, and perhaps not made yet
    shown = _samples(data, options.split, options.count, options.seed)
    with writing("--out", options.out):
        count = _write(shown, options.out, f"{options.what}: {options.split}")
    log.info(
        "%s: %d of %d images of the %s split", options.out, count, len(data.annotations(options.split)), options.split
    )


def _data_of(arguments: Sequence[str]) -> list[str]:
    """The options for the data of the folder or the file that the first argument names."""
    what = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    if not what:  # what is missing, or a question for help, is for the parser to say
        return []
    if is_data(Path(what)):
        what = str(find_folder(Path(what)))
        semantic = "semantic_segmentation" in detect_any(Path(what)).format.tasks
        return [f"--data={'Segmentation' if semantic else 'Detection'}DataModule", f"--data.root={what}"]
    if not what.endswith(SUFFIXES):
        raise ConfigError(f"{what}: name a folder of data, or a YAML file")
    file = find_config(what)
    try:
        content = translate_settings(yaml.safe_load(read_text(file)))
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not valid YAML: {error}") from None
    if not isinstance(content, dict) or not {"data", "class_path"} & content.keys():
        raise ConfigError(f"{file}: has neither data nor the class_path of a data set")
    if "class_path" in content:
        return [f"--data={file}"]
    data = content["data"]
    if isinstance(data, str):
        return [f"--data={file.parent / data if data.endswith(SUFFIXES) else data}", *_masks_for(content)]
    return [f"--data={yaml.safe_dump(data, default_flow_style=True, width=1_000_000).strip()}", *_masks_for(content)]


def _masks_for(content: dict[str, Any]) -> list[str]:
    """The option that gives masks to a network that learns from them."""
    try:
        name = str(content["model"]["class_path"]).rpartition(".")[2]
    except (KeyError, TypeError):
        return []
    return ["--data.masks=all"] if getattr(getattr(models, name, None), "needs_masks", False) else []


def _samples(
    data: BaseDataModule[Any], split: Literal["train", "val"], count: int, seed: int
) -> Iterator[tuple[ImageArray, PageImage]]:
    """Pictures with their labels drawn, and what there is to say of each."""
    dataset, annotations = data.dataset(split), data.annotations(split)
    generator = np.random.default_rng(seed)
    rows = generator.permutation(len(annotations))[:count]
    seeds = generator.integers(2**32, size=len(rows))
    for row, drawn in zip(rows.tolist(), seeds.tolist(), strict=True):
        sample: Sample = dataset[(row, drawn)]
        picture, labels = _drawn(sample, data.classes)
        height, width = sample.image.shape[1:]
        text = f"{annotations.files[row]}, {width}x{height} of {sample.original_size[1]}x{sample.original_size[0]}"
        yield picture, PageImage("", text, tuple(data.classes[label] for label in labels))


def _drawn(sample: Sample, classes: Sequence[str]) -> tuple[ImageArray, list[int]]:
    """A sample with its labels, and which these are."""
    image: NDArray[np.uint8] = sample.image.permute(1, 2, 0).contiguous().numpy()
    if sample.semantic is not None:
        semantic = sample.semantic.numpy().astype(np.uint8)
        return overlay(image, semantic, classes), np.unique(semantic[semantic < len(classes)]).tolist()
    boxes, (height, width) = sample.boxes.numpy(), image.shape[:2]
    none = np.zeros((0, 1, 1), dtype=np.float32)
    grids = none if sample.masks is None else sample.masks.numpy().astype(np.float32) / 255
    masks = (
        paste_mask(grid, box, height, width).full_mask(height, width) for grid, box in zip(grids, boxes, strict=False)
    )
    return draw(image, boxes, sample.labels.numpy(), classes, masks=masks), sorted(set(sample.labels.tolist()))


def _write(shown: Iterator[tuple[ImageArray, PageImage]], out: Path, title: str) -> int:
    """Write pictures to a page or a folder; return how many."""
    if out.suffix == ".html":
        images = [entry._replace(source=data_uri(shrink(image, SIDE))) for image, entry in shown]
        page = render("browse.html.j2", title=title, images=images)
        out.write_text(page, encoding="utf-8", errors="backslashreplace")
        return len(images)
    count = 0
    for picture, entry in shown:
        stem = Path(entry.caption.partition(",")[0]).stem
        Image.fromarray(picture).save(out / f"{count:03d}_{stem}.jpg", quality=90)
        count += 1
    return count
