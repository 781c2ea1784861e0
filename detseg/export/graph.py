"""Models as graphs: uint8 images of one frame in, outputs of fixed shapes out.

The batch is dynamic, the frame (height and width of the padded images) is fixed. ``image_sizes`` (B, 2) are the height
and width of each image inside the frame. Outputs, boxes in pixels of the frame:

- detectors: ``boxes`` (B, N, 4), ``scores`` (B, N), ``labels`` (B, N), best first; ``num_detections`` (B,), of which
  the rest of the N slots is padding; ``masks`` (B, N, S, S), probabilities over each box
- segmenters: ``labels`` (B, H, W), uint8
- classifiers: ``scores`` (B, K), probabilities
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detseg.constants import MAX_PROPOSALS
from detseg.errors import ConfigError
from detseg.models import Classifier, Detector, FasterRCNN, FastRCNN, RetinaNet, Segmenter
from detseg.models.model import Model
from detseg.modules.roi_pooler import RoIAlign, RoIPooler, assign_levels
from detseg.preprocessing import CenterCropConfig, ResizeConfig
from detseg.structures import STRIDE, Instances

Frame = tuple[int, int]  # height and width


@torch.library.custom_op("detseg::roi_align", mutates_args=())
def roi_align(features: Sequence[Tensor], boxes: Tensor, levels: Tensor, strides: Sequence[int], size: int) -> Tensor:
    """Pool boxes (B, R, 4) of these ``levels`` (B, R) by ``RoIAlign`` as one node of a graph."""
    return RoIAlign()(features, Instances(boxes, levels >= 0), strides, size)


@roi_align.register_fake
def _(features: Sequence[Tensor], boxes: Tensor, levels: Tensor, strides: Sequence[int], size: int) -> Tensor:
    return features[0].new_empty(boxes.shape[0] * boxes.shape[1], features[0].shape[1], size, size)


class RoIAlignNode(RoIPooler):
    """``RoIAlign`` as one node, so that a translation can pool every box from its level alone."""

    def __call__(
        self, features: Sequence[Tensor], regions: Instances, strides: Sequence[int], pool_size: int
    ) -> Tensor:
        boxes = torch.where(regions.valid[..., None], regions.boxes, 0)
        maps, levels = features[: len(strides)], assign_levels(boxes, strides)
        return roi_align(maps, boxes, levels, strides, pool_size)  # type: ignore[no-any-return]


class DetectorGraph(nn.Module):
    """A detector as a function from tensors to a dictionary of tensors."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        images: Tensor,
        image_sizes: Tensor,
        proposals: Tensor | None = None,
        num_proposals: Tensor | None = None,
    ) -> dict[str, Tensor]:
        instances = None
        if proposals is not None and num_proposals is not None:
            slots = torch.arange(proposals.shape[1], device=proposals.device)
            instances = Instances(proposals, slots < num_proposals[:, None])
        detections = self.model(images, image_sizes, instances)
        outputs = {
            "boxes": detections.boxes,
            "scores": detections.scores,
            "labels": detections.labels,
            "num_detections": detections.valid.sum(dim=1),
        }
        return outputs if detections.masks is None else {**outputs, "masks": detections.masks}


class SegmenterGraph(nn.Module):
    """A segmenter as a function from tensors to the label of each pixel."""

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, image_sizes: Tensor) -> dict[str, Tensor]:
        return {"labels": self.model(images, image_sizes).argmax(dim=1).to(torch.uint8)}


class ClassifierGraph(nn.Module):
    """A classifier as a function from images to probabilities."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"scores": self.model(images).softmax(dim=1)}


def make_graph(model: Model, nodes: bool) -> nn.Module:
    """Copy a model to the CPU as a graph; with ``nodes``, RoIAlign becomes one node of it.

    Raises ConfigError for a model that cannot be exported.
    """
    if not isinstance(model, (FasterRCNN, FastRCNN, RetinaNet, Segmenter, Classifier)):
        raise ConfigError(f"a {type(model).__name__} cannot be exported; Fast R-CNN and later detectors can be")
    model = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    if nodes and isinstance(model, (FasterRCNN, FastRCNN)) and type(model.roi_heads.pooler) is RoIAlign:
        model.roi_heads.pooler = RoIAlignNode()
    if isinstance(model, Classifier):
        return ClassifierGraph(model)
    return SegmenterGraph(model) if isinstance(model, Segmenter) else DetectorGraph(model)


def round_weights(model: Model) -> Model:
    """Copy a model with the weights of its layers rounded to half precision; it computes in single precision."""
    model = copy.deepcopy(model)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.half().float()
    return model


def default_frame(model: Model) -> Frame:
    """Return the frame of wide images, such as 800 x 1344, or that of a classifier.

    Raises ConfigError for a model whose images keep their size.
    """
    config = model.preprocessing
    if isinstance(config, CenterCropConfig):
        return config.size, config.size
    if isinstance(config, ResizeConfig):
        height, width = (-(-side // STRIDE) * STRIDE for side in (config.min_size, config.max_size))
        return height, width
    raise ConfigError(
        "size: images of this model keep their size; give the height and width of the largest, such as 512x1024"
    )


def check_frame(model: Model, frame: Frame) -> Frame:
    """Raise ConfigError for a frame that the model does not take."""
    config = model.preprocessing
    if isinstance(config, CenterCropConfig) and frame != (config.size, config.size):
        raise ConfigError(f"size: this classifier takes {config.size}x{config.size}, not {frame[0]}x{frame[1]}")
    if not isinstance(config, CenterCropConfig) and (min(frame) < STRIDE or any(side % STRIDE for side in frame)):
        raise ConfigError(f"size: both sides of {frame[0]}x{frame[1]} must be multiples of {STRIDE}")
    return frame


def example_inputs(model: Model, frame: Frame, batch: int = 2) -> dict[str, Tensor]:
    """Make inputs of black images, by name."""
    inputs: dict[str, Tensor] = {"images": torch.zeros(batch, 3, *frame, dtype=torch.uint8)}
    if not isinstance(model, Classifier):
        inputs["image_sizes"] = torch.tensor([frame] * batch)
    if isinstance(model, Detector) and model.needs_proposals:
        inputs["proposals"] = torch.zeros(batch, MAX_PROPOSALS, 4)
        inputs["num_proposals"] = torch.full((batch,), MAX_PROPOSALS)
    return inputs


def output_names(model: Model) -> list[str]:
    """List the outputs of the graph of a model."""
    if isinstance(model, Detector):
        return ["boxes", "scores", "labels", "num_detections", *(["masks"] if model.needs_masks else [])]
    return ["labels"] if isinstance(model, Segmenter) else ["scores"]


def dynamic_shapes(inputs: dict[str, Tensor]) -> dict[str, Any]:
    """Mark the batch as dynamic."""
    batch = torch.export.Dim("batch")
    return {name: {0: batch} for name in inputs}
