"""`detseg propose`: compute region proposals for a data set, and their recall."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from detseg import checkpoint
from detseg import data as data_sets
from detseg.cli._configs import find_configs, for_other_data
from detseg.cli._parser import instantiate, make_parser, parse, require_minimum
from detseg.constants import MAX_PROPOSALS
from detseg.data import DetectionDataModule
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.loading.collate import eval_pad_shapes
from detseg.data.loading.proposals import Proposals, Writer, cache_file, make_header
from detseg.errors import CheckpointError, ConfigError, DataError
from detseg.inference.preprocessing import preprocess, to_batch
from detseg.metrics import proposal_recall
from detseg.models import FasterRCNN
from detseg.progress import progress
from detseg.proposals.detectron2 import read_detectron2
from detseg.proposals.grid import grid
from detseg.proposals.parallel import Method, TimedBoxes, compute_proposals
from detseg.proposals.selective_search import selective_search
from detseg.structures import rescale
from detseg.weights.model_card import WEIGHTS

log = logging.getLogger(__name__)

METHODS: dict[str, Method] = {
    "selective_search": selective_search,
    "selective_search_quality": partial(selective_search, mode="quality"),
    "grid": grid,
}
FILES = ("rpn", "detectron2")  # methods with a file, as rpn:FILE


def run(arguments: Sequence[str]) -> None:
    """Compute the proposals that are missing, and print their recall."""
    data_sets.import_all()
    arguments = for_other_data(find_configs(arguments), DetectionDataModule)
    parser = make_parser(
        "propose", "--data NAME.yaml|CLASS|FOLDER [--method selective_search] [--jobs 1] [--out FOLDER]"
    )
    parser.add_subclass_arguments(DetectionDataModule, "data", required=True, help="The images, as for `detseg train`.")
    parser.add_argument(
        "--method",
        type=str,
        default="selective_search",
        help="selective_search, selective_search_quality, grid, rpn:CHECKPOINT, or detectron2:FILE to convert.",
    )
    parser.add_argument("--jobs", type=int, default=1, help="Processes; a region proposal network always has one.")
    parser.add_argument("--split", type=Literal["train", "val", "both"], default="both", help="Which images.")
    parser.add_argument("--out", type=Path | None, help="Folder; by default data.proposals, or proposals/METHOD.")
    options = parse(parser, arguments)
    require_minimum(options, jobs=1)
    method, file = _method(options.method)
    data = instantiate(parser, options).data
    out = options.out or Path(data.proposals or Path("proposals", method))
    for split in ("train", "val") if options.split == "both" else (options.split,):
        annotations = data.train_annotations if split == "train" else data.val_annotations
        target = cache_file(out, split)
        source = _fingerprint(file) if file else None
        with Writer(target, make_header(annotations, options.method, name=method, file=source)) as writer:
            _fill(writer, annotations, _work(method, file, annotations, writer.missing(), options.jobs))
        print(_report(split, annotations, Proposals(target, annotations, "detseg propose")))
    print(f"written: {out}; to train with them: --data.proposals {out}")


def _fingerprint(file: Path) -> str:
    """Return the hash of a file, or of the weights in a published folder."""
    content = file / WEIGHTS if file.is_dir() else file
    if not content.is_file():
        raise DataError(f"{file}: is a folder without {WEIGHTS}, which `detseg publish` writes")
    return hashlib.sha256(content.read_bytes()).hexdigest()


def _method(text: str) -> tuple[str, Path | None]:
    """Split a method into name and file. Raises ConfigError for an unknown method, DataError for a missing file."""
    name, _, file = text.partition(":")
    if text not in METHODS and not (name in FILES and file):
        known = ", ".join([*METHODS, "rpn:CHECKPOINT", "detectron2:FILE"])
        raise ConfigError(f"--method {text}: no such method; choose from {known}")
    if file and not (Path(file).is_file() or (name == "rpn" and Path(file).is_dir())):
        raise DataError(f"--method {text}: there is no file {file}")
    return name, Path(file) if file else None


def _work(
    name: str, file: Path | None, annotations: DetectionAnnotations, image_indices: list[int], jobs: int
) -> Iterator[TimedBoxes]:
    """Compute the proposals of images, in the order of ``image_indices``."""
    if name == "detectron2" and file:
        proposals = read_detectron2(file)
        ids = [str(annotations.image_ids[row]) for row in image_indices]
        if missing := [number for number in ids if number not in proposals]:
            raise DataError(
                f"{file}: has no proposals for {len(missing)} images of {annotations.root}, such as {missing[0]}; "
                "name the file of the right split"
            )
        return ((proposals[number], 0.0) for number in ids)
    sizes = annotations.sizes.tolist()
    images = [(annotations.path(row), tuple(sizes[row]), None, annotations.orientation) for row in image_indices]
    if name == "rpn" and file:
        return compute_proposals(_region_proposal_network(file), images, jobs=1)
    return compute_proposals(METHODS[name], images, jobs)


def _region_proposal_network(file: Path) -> Method:
    """Return the RPN of a checkpoint as a method, with its number of training proposals. Raises CheckpointError."""
    model = checkpoint.load_model(file)
    if not isinstance(model, FasterRCNN):
        raise CheckpointError(f"{file}: holds {type(model).__name__}, and only FasterRCNN makes proposals")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    shapes = eval_pad_shapes(model.preprocessing)

    @torch.inference_mode()
    def method(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        batch = to_batch([preprocess(image, model.preprocessing)], shapes, device)
        images, sizes, original_sizes = batch.images, batch.image_sizes, batch.original_sizes
        predictions = model.rpn(model.backbone(images, sizes), (images.shape[2], images.shape[3]))
        proposals = model.rpn.propose(predictions, sizes, training=True)
        boxes = rescale(proposals, sizes, original_sizes).boxes[0][proposals.valid[0]]
        return boxes.cpu().numpy()

    return method


def _fill(writer: Writer, annotations: DetectionAnnotations, work: Iterator[TimedBoxes]) -> None:
    """Write the missing proposals as they are computed."""
    rows = writer.missing()
    done = len(annotations) - len(rows)
    if 0 < len(rows) < len(annotations):
        log.info("%s: continuing, %d of %d images are done", writer.file, done, len(annotations))
    with progress(done, len(annotations), str(writer.file)) as advance:
        for row, (boxes, seconds) in zip(rows, work, strict=True):
            writer.add(row, boxes, seconds)
            advance()


def _report(split: str, annotations: DetectionAnnotations, proposals: Proposals) -> str:
    """Describe the recall of the proposals of a split in one line."""
    counts = []

    def read() -> Iterator[NDArray[np.float32]]:
        for row in range(len(annotations)):
            counts.append(len(proposals[row]))
            yield proposals[row]

    figures = proposal_recall(annotations, read())
    cut = f"\nmodels look at the first {MAX_PROPOSALS} of an image" if max(counts) > MAX_PROPOSALS else ""
    return (
        f"{split}: {len(annotations)} images, {np.mean(counts):.0f} boxes and "
        f"{proposals.seconds():.2f} seconds an image; recall {figures['recall50']:.3f} at IoU 0.5, "
        f"{figures['recall70']:.3f} at 0.7; average recall {figures['AR']:.3f}{cut}"
    )
