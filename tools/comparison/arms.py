"""The arms of the comparison: detseg, torchvision, and detseg with one difference each that could cost or gain AP.

A difference that gains moves into the package; until then its code is here.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from detseg.data import DetectionDataModule
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.modules.detection import DetectionDataset
from detseg.data.splits import Split
from detseg.data.transforms import ImageSample
from detseg.models import MaskRCNN
from detseg.modules import RPN, BalancedSampler, RoIAlign, mask_head
from detseg.modules.roi_pooler import assign_levels
from detseg.modules.rpn import Predictions
from detseg.ops.masks import BOX_MASK_SIZE, mask_targets
from detseg.ops.rle import decode, from_string, paste_mask
from detseg.structures import Batch, Instances

FINE = 8  # rows of pixels that a polygon is drawn with in each cell of a box mask


class Data(DetectionDataModule):
    """The data of a comparison: with ``only`` some classes, the images that show them."""

    only: tuple[str, ...] = ()

    def read(self, split: Split) -> DetectionAnnotations:
        table = super().read(split)
        if not self.only:
            return table
        table = table.relabel(self.only)
        return table.subset(np.flatnonzero(np.diff(table.offsets)))


class UnbucketedData(Data):
    """The same batches, padded as torchvision pads: to multiples of 32 of the largest image, not to a few shapes."""

    @property
    def pad_shapes(self) -> list[tuple[int, int]]:
        return []


class ImageSampler(BalancedSampler):
    """Draw no negative anchors whose centre lies in the padding."""

    inside: Tensor  # (B, A) bool

    def __call__(self, positive: Tensor, negative: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        return super().__call__(positive, negative & self.inside, *arguments)


class ImageRPN(RPN):
    """Sample no negatives centred in the padding, as mmdetection's valid flags do."""

    def __init__(self) -> None:
        super().__init__(sampler=ImageSampler(256, 0.5))

    def propose(self, predictions: Predictions, image_sizes: Tensor, training: bool) -> Instances:
        anchors = predictions.anchors
        centres = (anchors[:, :2] + anchors[:, 2:]) / 2
        self.sampler.inside = (centres < image_sizes[:, None].flip(2)).all(dim=2)
        return super().propose(predictions, image_sizes, training)


class HalfPixelRoIAlign(RoIAlign):
    """Sample half a pixel of the map to the left and above, as ``aligned=True`` of detectron2 and torchvision does."""

    def __call__(self, features: Any, regions: Instances, strides: Any, pool_size: int) -> Tensor:
        boxes = torch.where(regions.valid[..., None], regions.boxes, 0)
        half = torch.tensor(strides, dtype=boxes.dtype)[assign_levels(boxes, strides)] / 2
        return super().__call__(features, regions._replace(boxes=boxes - half[..., None]), strides, pool_size)


class TorchvisionTargets(MaskRCNN):
    """Compute mask targets as torchvision does: RoIAlign of the masks in the resized image."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        with patch.object(mask_head, "mask_targets", partial(torchvision_targets, batch)):
            return super().loss(batch)


class BinaryTargets(MaskRCNN):
    """Compute mask targets as detectron2 does: a cell is 1 if at least half of it is covered, else 0."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        with patch.object(mask_head, "mask_targets", lambda *given: (mask_targets(*given) >= 0.5).float()):
            return super().loss(batch)


def torchvision_mask(batch: Batch, image: int, mask: Tensor, box: Tensor) -> Tensor:
    """Return the mask (h, w) uint8 of an object in the resized image as torchvision has it, from its box mask (S, S).

    torchvision resizes the mask of the file by the nearest pixel, which for smaller images moves it by about as much
    as its targets are moved back.
    """
    (height, width), (old_height, old_width) = (
        sizes[image].tolist() for sizes in (batch.image_sizes, batch.original_sizes)
    )
    factors = np.tile(np.array([old_width / width, old_height / height]), 2)
    pasted = paste_mask(mask.numpy() / np.float32(255), box.numpy() * factors, old_height, old_width)
    whole = torch.from_numpy(pasted.full_mask(old_height, old_width))[None, None].float()
    return F.interpolate(whole, size=(height, width))[0, 0].byte()


def torchvision_targets(batch: Batch, masks: Tensor, boxes: Tensor, regions: Tensor, size: int) -> Tensor:
    """Compute targets (B, R, size, size) as torchvision does, from box masks (B, R, S, S)."""
    targets = regions.new_zeros(*masks.shape[:2], size, size)
    for image, region in np.ndindex(masks.shape[:2]):
        whole = torchvision_mask(batch, image, masks[image, region], boxes[image, region])[None]
        box = regions[image, region][None]
        targets[image, region] = project_masks_on_boxes(whole, box, torch.tensor([0]), size)[0]
    return targets


class PolygonDataset(DetectionDataset):
    """Draw polygons straight into the box masks, and not from the pixels of the image file."""

    def read(self, row: int) -> ImageSample:
        sample, table, objects = super().read(row), self.annotations, self.annotations.objects(row)
        assert table.masks is not None
        learnt = np.flatnonzero(~(table.crowd[objects] | table.difficult[objects])) + objects.start
        pairs = zip(learnt.tolist(), sample.boxes, strict=True)
        masks = [polygon_box_mask(table.masks.polygons(one), box) for one, box in pairs]
        return sample._replace(masks=np.array(masks, dtype=np.uint8).reshape(-1, BOX_MASK_SIZE, BOX_MASK_SIZE))


class PolygonData(Data):
    """Box masks of exact polygons."""

    def dataset(self, split: Split) -> DetectionDataset:
        return PolygonDataset(self.annotations(split), self.transforms, split == "train", masks=True)


def polygon_box_mask(polygons: list[np.ndarray], box: np.ndarray, size: int = BOX_MASK_SIZE) -> np.ndarray:
    """Return the covered part (size, size) uint8 of each cell of a box, 255 for all of it."""
    from faster_coco_eval.core import mask

    fine, exact = FINE * size, box.astype(np.float64)
    parts = [((one.reshape(-1, 2) - exact[:2]) / (exact[2:] - exact[:2]) * fine).ravel() for one in polygons]
    drawn = decode(from_string(mask.merge(mask.frPyObjects(parts, fine, fine))["counts"]), fine, fine)
    covered = drawn.reshape(size, FINE, size, FINE).mean(axis=(1, 3), dtype=np.float32)
    return np.rint(255 * covered).astype(np.uint8)


class Arm(NamedTuple):
    """How one side of the comparison differs from detseg as it is."""

    meaning: str
    data: type[Data] = Data
    rpn: type[RPN] = RPN
    pooler: type[RoIAlign] = RoIAlign
    mask_rcnn: type[MaskRCNN] = MaskRCNN
    is_torchvision: bool = False


REFERENCE = "torchvision"
ARMS = {
    "detseg": Arm("detseg as it is"),
    REFERENCE: Arm("torchvision's network, trained by a plain loop", is_torchvision=True),
    "unbucketed": Arm("padded as torchvision pads", data=UnbucketedData),
    "image_negatives": Arm("no RPN negatives centred in the padding", rpn=ImageRPN),
}
MASK_ARMS = ARMS | {
    "half_pixel": Arm("RoIAlign shifted by half a pixel, as detectron2's", pooler=HalfPixelRoIAlign),
    "torchvision_targets": Arm("mask targets as torchvision's", mask_rcnn=TorchvisionTargets),
    "polygon_targets": Arm("binary mask targets of exact polygons", data=PolygonData, mask_rcnn=BinaryTargets),
}
