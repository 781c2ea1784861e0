"""Features of every region of the training images, in a file for each image."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from detseg.configurable import to_config
from detseg.constants import MAX_PROPOSALS
from detseg.data import DetectionDataModule, collate
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.loading.proposals import fingerprint
from detseg.data.modules.detection import DetectionDataset
from detseg.errors import ConfigError, DataError, DetsegError
from detseg.models.detector import require_proposals
from detseg.models.rcnn import RCNN
from detseg.ops import boxes as box_ops
from detseg.ops.boxes import TINY
from detseg.progress import progress
from detseg.structures import Instances, Sample

log = logging.getLogger(__name__)

REGRESSION_IOU = 0.6  # with its object, from which a proposal is a sample for the regressors (appendix C)
TARGET_NORM = 20.0  # to which features are scaled on average, as in the original implementation
NORM_IMAGES = 200  # that the scale is computed from
GIB = 2**30


class RegionFeatures:
    """A folder with the features of each image, and with the results of later stages.

    Files are written atomically. ``about`` describes everything that the features depend on; features of anything
    else are removed.

    Raises ConfigError for a folder of other files, DataError if nothing can be written there.
    """

    def __init__(self, folder: Path, about: str) -> None:
        self.folder = folder
        note = folder / "about.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not note.exists():
                if any(file != note.with_suffix(".part") for file in folder.iterdir()):
                    raise ConfigError(f"{folder}: not a folder of R-CNN's training, which needs the name; move it away")
            elif note.read_bytes() == about.encode():
                return
            else:
                log.info("%s: of other weights, images or settings; computed again", folder)
                for file in [*folder.glob("*.safetensors"), *folder.glob("*.part")]:
                    file.unlink()
        except OSError as error:
            raise DataError(f"{folder}: cannot be used: {error}; correct that and resume the training") from None
        _replace(note, lambda part: part.write_text(about, encoding="utf-8"))

    def __contains__(self, name: object) -> bool:
        return self._path(str(name)).exists()

    def write(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write the file called ``name``. Raises DataError if it cannot be written."""
        contiguous = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        _replace(self._path(name), lambda part: save_file(contiguous, part))

    def read(self, name: str, *keys: str) -> list[Tensor]:
        """Read some tensors of the file called ``name``. Raises DataError if it is damaged."""
        try:
            with safe_open(self._path(name), "pt") as file:
                return [file.get_tensor(key) for key in keys]
        except (OSError, SafetensorError) as error:
            raise DataError(f"{self._path(name)}: damaged: {error}; remove it and resume the training") from None

    def remove(self, count: int) -> None:
        """Remove the files of the images."""
        for row in range(count):
            self._path(image_name(row)).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def _replace(path: Path, save: Callable[[Path], object]) -> None:
    """Write a file atomically. Raises DataError if it cannot be written."""
    part = path.with_suffix(".part")
    try:
        save(part)
        part.replace(path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise DataError(f"{part}: cannot be written: {error}; free some space and resume the training") from None


def image_name(row: int) -> str:
    """Name the file of an image."""
    return f"{row:06d}"


def scale_of(files: RegionFeatures, images: int, *keys: str) -> float:
    """Return the factor that makes the mean norm of the features called ``keys`` 20, over the first images."""
    features = [files.read(image_name(image), *keys) for image in range(min(images, NORM_IMAGES))]
    norms = torch.cat([part.float().norm(dim=1) for parts in features for part in parts])
    return TARGET_NORM / max(float(norms.mean()), TINY) if len(norms) else 1.0


def training_images(data: DetectionDataModule) -> DetectionDataset:
    """Return the training images without augmentation. Raises DataError if they have no proposals."""
    dataset = data.dataset("train")
    if dataset.proposals is None:
        require_proposals(None, "R-CNN")
    dataset.training = False
    return dataset


def describe(model: RCNN, data: DetectionDataModule, precision: str) -> str:
    """Describe everything that the features depend on, as JSON; ``precision`` is the trainer's."""
    annotations, dataset = data.train_annotations, training_images(data)
    weights = hashlib.sha256()
    for name, value in model.state_dict().items():
        if not name.startswith(("svms.", "bbox_pred.")):
            weights.update(name.encode() + value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    objects = (annotations.boxes, annotations.labels, annotations.crowd, annotations.difficult)
    labels = hashlib.sha256(b"".join(values.tobytes() for values in objects))
    assert dataset.proposals is not None
    state = dataset.proposals.file.stat()
    content = {
        "weights": weights.hexdigest(),
        "precision": precision,
        "region": [model.crop_size, model.context],
        "images": fingerprint(annotations),
        "labels": labels.hexdigest(),
        "transforms": to_config(data.transforms),
        "proposals": [str(dataset.proposals.file), state.st_size, state.st_mtime_ns],
    }
    return json.dumps(content, indent=2)


def check_room(model: RCNN, data: DetectionDataModule, limit: float) -> None:
    """Log the size of the features. Raises ConfigError if it exceeds ``limit`` GiB, DataError without objects.

    Boxes are compared in pixels of the image files.
    """
    dataset, total = training_images(data), 0
    annotations = dataset.annotations
    learnt = ~(annotations.crowd | annotations.difficult)
    if not learnt.any():
        raise DataError(
            f"{annotations.root}: no training image shows an object to learn from, crowds and difficult aside"
        )
    assert dataset.proposals is not None
    for row in range(len(dataset)):
        boxes = torch.from_numpy(dataset.proposals[row][:MAX_PROPOSALS])
        objects = annotations.objects(row)
        truth = torch.from_numpy(annotations.boxes[objects][learnt[objects]]).float()
        near = int((box_ops.iou(truth, boxes) >= REGRESSION_IOU).any(dim=0).sum())
        total += 2 * model.svms.in_features * (len(boxes) + len(truth)) + 2 * model.bbox_pred.in_features * near
        total += 4 * model.num_classes * (len(boxes) + len(truth))
    log.info("the features of all regions will take %.2f GiB on disk, of %g allowed", total / GIB, limit)
    if total > limit * GIB:
        raise ConfigError(
            f"features_gib: {limit:g} is not enough, the features of the training images take "
            f"{total / GIB:.2f} GiB; raise it, or train with fewer proposals"
        )


@torch.no_grad()
def extract(model: RCNN, data: DetectionDataModule, files: RegionFeatures, device: torch.device) -> None:
    """Write the missing features of the training images, in half precision.

    For each image with n objects and m proposals, p of them near enough to one: ``truth`` (n, D) and ``labels`` (n,) of
    the objects; ``hidden`` (m, D) of the proposals; ``overlaps`` (n + m, K) of both, the highest IoU with an object of
    each class, crowds and difficult ones included; ``grid`` (p, E), ``deltas`` (p, 4) and ``classes`` (p,) of the
    object that the proposal overlaps most.
    """
    dataset = training_images(data)
    missing = [row for row in range(len(dataset)) if image_name(row) not in files]
    with progress(len(dataset) - len(missing), len(dataset), "features") as advance:
        for row in missing:
            files.write(image_name(row), _image_features(model, dataset[row], data, device))
            advance()


def _image_features(model: RCNN, sample: Sample, data: DetectionDataModule, device: torch.device) -> dict[str, Any]:
    batch = collate([sample], data.pad_shapes)
    truth, labels = sample.boxes.to(device), sample.labels.to(device)
    assert sample.proposals is not None
    proposals = sample.proposals.to(device)
    boxes = torch.cat([truth, proposals])[None]
    regions = Instances(boxes, torch.ones(boxes.shape[:2], dtype=torch.bool, device=device))
    features = model.features(batch.images.to(device), batch.image_sizes.to(device), regions)
    hidden, grid = (each[0].half() for each in features)
    if not (hidden.isfinite().all() and grid.isfinite().all()):
        path = data.train_annotations.path(sample.image_index)
        raise DetsegError(f"{path}: its features are not finite in half precision; train again with a lower `lr`")

    nothing = proposals.new_zeros(1, len(proposals))
    iou = torch.cat([nothing, box_ops.iou(truth, proposals)])  # a first row for images without an object
    best, nearest = iou.max(dim=0)
    near = best >= REGRESSION_IOU
    nearest = nearest[near] - 1
    return {
        "truth": hidden[: len(truth)],
        "labels": labels,
        "hidden": hidden[len(truth) :],
        "overlaps": _overlaps(boxes[0], sample, data.train_annotations, model.num_classes),
        "grid": grid[len(truth) :][near],
        "deltas": box_ops.encode(truth[nearest], proposals[near], model.delta_weights),
        "classes": labels[nearest],
    }


def _overlaps(boxes: Tensor, sample: Sample, annotations: DetectionAnnotations, num_classes: int) -> Tensor:
    """Return the highest IoU (n, K) of boxes (n, 4) with the objects of each class, with crowds and difficult."""
    objects = annotations.objects(sample.image_index)
    height, width = sample.original_size
    scale = sample.image.shape[2] / width, sample.image.shape[1] / height
    inside = annotations.boxes[objects].clip(0, (width, height, width, height))
    every = torch.from_numpy(inside * np.tile(scale, 2)).to(boxes)
    labels = torch.from_numpy(annotations.labels[objects]).to(boxes.device)
    iou = box_ops.iou(boxes, every)
    return boxes.new_zeros(len(boxes), num_classes).scatter_reduce(1, labels.expand_as(iou), iou, "amax")
