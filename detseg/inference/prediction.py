"""Finding objects in image files."""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from detseg.configurable import from_config
from detseg.data import DetectionDataModule, collate
from detseg.data.annotations.images import SUFFIXES, read_image
from detseg.data.modules.detection import MOST_PROPOSALS
from detseg.errors import CheckpointError, DataError
from detseg.metrics.detections import image_runs
from detseg.proposals.selective_search import selective_search
from detseg.structures import Instances, Sample, rescale

if TYPE_CHECKING:
    from detseg.tasks.base import Task
    from detseg.tasks.detection import DetectionTask


log = logging.getLogger(__name__)


class DetectionResult(NamedTuple):
    """The objects found in one image, the surest first."""

    path: Path
    classes: list[str]  # (n,)
    scores: NDArray[np.float32]  # (n,)
    boxes: NDArray[np.float32]  # (n, 4) xyxy, pixels of the image file
    size: tuple[int, int]  # height and width of the image file
    masks: list[bytes] | None = None  # (n,) text of run lengths, see ops.runs


def find_images(source: str | Path | Iterable[str | Path]) -> list[Path]:
    """The image files that ``source`` means: a file, a folder, a glob pattern, or several of them.

    Raises DataError if there is none.
    """
    if not isinstance(source, (str, Path)):
        return [path for one in source for path in find_images(one)]
    if Path(source).is_dir():
        found = sorted(path for path in Path(source).iterdir() if path.suffix.lower() in SUFFIXES)
        if not found:
            raise DataError(f"{source}: no image in this folder ({', '.join(SUFFIXES)})")
        return found
    found = [Path(source)] if Path(source).exists() else sorted(map(Path, glob.glob(str(source), recursive=True)))
    if not found:
        raise DataError(f"{source}: no such image, folder or pattern")
    return found


def stored_data(task: Task) -> Any:
    """The data that a task was trained on, without the images: how these are resized. Raises CheckpointError."""
    try:
        data = from_config(task.data_recipe)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"how images are resized cannot be rebuilt: {error}") from error
    if not isinstance(data, task.learns_from):
        raise CheckpointError("this task was never trained: there are no classes and no size of images to predict with")
    return data


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and afterwards into the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def predict(
    task: DetectionTask, images: str | Path | Iterable[str | Path], threshold: float = 0.5
) -> Iterator[DetectionResult]:
    """Find objects of a score of at least ``threshold`` in image files, one after the other.

    Raises DataError, naming it, for a file that is missing or is no image.
    """
    data = stored_data(task)
    if task.model.needs_proposals:
        log.info("proposals are those of selective search, fast, whatever the training had")
    for path in find_images(images):
        yield _predict(task, data, path, threshold)


def _propose(image: NDArray[np.uint8], height: int, width: int) -> Instances:
    """Selective search's proposals of an image, in pixels of the network input, where it has this size."""
    found = torch.from_numpy(selective_search(image)[:MOST_PROPOSALS])[None]
    scale = torch.tensor([width / image.shape[1], height / image.shape[0]]).repeat(2)
    return Instances(found * scale, torch.ones(found.shape[:2], dtype=torch.bool))


@torch.inference_mode()
def _predict(task: DetectionTask, data: DetectionDataModule, path: Path, threshold: float) -> DetectionResult:
    image = read_image(path)
    resized, (height, width) = data.eval_transform(image)
    nothing = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    sample = Sample(torch.from_numpy(resized).permute(2, 0, 1), *nothing, 0, (image.shape[0], image.shape[1]))
    batch = collate([sample], data.pad_shapes)
    images, sizes, original_sizes = (x.to(task.device) for x in (batch.images, batch.image_sizes, batch.original_sizes))
    proposals = None
    if task.model.needs_proposals:
        made = _propose(image, height, width)
        proposals = made._replace(boxes=made.boxes.to(task.device), valid=made.valid.to(task.device))
    with evaluating(task.model):
        found = rescale(task.model(images, sizes, proposals), sizes, original_sizes)
    assert found.scores is not None
    assert found.labels is not None
    kept = found.valid[0] & (found.scores[0] >= threshold)
    return DetectionResult(
        path,
        [task.classes[label] for label in found.labels[0][kept].tolist()],
        found.scores[0][kept].float().cpu().numpy(),
        found.boxes[0][kept].float().cpu().numpy(),
        (image.shape[0], image.shape[1]),
        None if found.masks is None else image_runs(found._replace(valid=kept[None]), 0, *image.shape[:2]),
    )
