"""ONNX by PyTorch's exporter, with NMS and RoIAlign translated to standard operators, without loops."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from onnxscript import opset18, optimizer

from detseg import kernels
from detseg.export.graph import Frame, dynamic_shapes, example_inputs, make_graph, output_names
from detseg.models.model import Model
from detseg.modules.roi_pooler import SAMPLING_RATIO

OPSET = 18
op: Any = opset18  # whose types are too narrow for values of a graph
SMALLEST = 256  # numbers that are worth a cast
UNSEEN = -1.0  # score of a box that takes no part in NMS; sigmoid and softmax give none below 0


def write(model: Model, frame: Frame, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write a model as an ONNX file that holds its weights and ``metadata``, plain values."""
    inputs = example_inputs(model, frame)
    with kernels.use(fast=False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            make_graph(model, nodes=True),
            kwargs=inputs,
            input_names=list(inputs),
            output_names=output_names(model),
            dynamic_shapes=dynamic_shapes(inputs),
            dynamo=True,
            opset_version=OPSET,
            custom_translation_table={
                torch.ops.detseg.nms.default: _nms,
                torch.ops.detseg.roi_align.default: _roi_align,
                torch.ops.torchvision.roi_pool.default: _roi_pool,
            },
            verbose=False,
            optimize=False,
        )
    assert program is not None
    # Not the exporter's own optimization: ONNX Runtime and OpenVINO fuse layers themselves, and fused weights would be
    # others than the rounded ones of ``half``.
    optimizer.inline(program.model)
    optimizer.fold_constants(program.model)
    optimizer.remove_unused_nodes(program.model)
    program.model.metadata_props["detseg"] = json.dumps(metadata)
    program.save(path, external_data=False)
    if metadata["half"]:
        _store_in_half(path)


def _store_in_half(path: Path) -> None:
    """Store all weights that half precision represents exactly in it; a cast of each restores single precision."""
    model = onnx.load(path)
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        half = values.astype(np.float16)
        if values.dtype == np.float32 and values.size >= SMALLEST and np.array_equal(half, values):
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
            casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)
    onnx.save(model, path)


def _ints(*values: int) -> Any:
    return op.Constant(value_ints=list(values))


def _int(value: int) -> Any:
    return op.Constant(value_int=value)


def _nms(boxes: Any, scores: Any, groups: Any, valid: Any, threshold: float, limit: int) -> tuple[Any, Any]:
    """Translate ``ops.boxes.nms``: the groups are the classes of NonMaxSuppression, whose list TopK makes dense."""
    count = op.Add(op.ReduceMax(op.Concat(op.Reshape(groups, _ints(-1)), _ints(0), axis=0), keepdims=0), _int(1))
    is_group = op.Equal(op.Unsqueeze(groups, _ints(1)), op.Unsqueeze(op.Range(_int(0), count, _int(1)), _ints(0, 2)))
    unseen = op.Constant(value_float=UNSEEN)
    scores = op.Where(valid, scores, unseen)
    group_scores = op.Where(is_group, op.Unsqueeze(scores, _ints(1)), unseen)
    selected = op.NonMaxSuppression(
        boxes, group_scores, _ints(limit), op.Constant(value_floats=[threshold]), op.Constant(value_floats=[UNSEEN / 2])
    )
    places = op.Gather(selected, _ints(0, 2), axis=1)  # image and box
    nothing = op.Expand(unseen, op.Shape(scores))
    kept = op.ScatterND(nothing, places, op.GatherND(scores, places))
    images = op.Shape(scores, start=0, end=1)
    padding = op.Expand(unseen, op.Concat(images, _ints(limit), axis=0))  # there may be fewer boxes than slots
    values, indices = op.TopK(op.Concat(kept, padding, axis=1), _ints(limit))
    kept_valid = op.Greater(values, op.Constant(value_float=UNSEEN / 2))
    return op.Where(kept_valid, indices, _int(0)), kept_valid


def _roi_align(features: Sequence[Any], boxes: Any, levels: Any, strides: Sequence[int], size: int) -> Any:
    """Translate ``RoIAlign``: RoiAlign on the boxes of each level, and their order restored."""
    boxes, levels, image, rows = _flatten(boxes, levels)
    pooled, order = [], []
    for index, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        order.append(op.Squeeze(op.NonZero(op.Equal(levels, _int(index))), _ints(0)))
        pooled.append(
            op.RoiAlign(
                feature,
                op.Gather(boxes, order[-1], axis=0),
                op.Gather(image, order[-1]),
                coordinate_transformation_mode="output_half_pixel",
                output_height=size,
                output_width=size,
                sampling_ratio=SAMPLING_RATIO,
                spatial_scale=1 / stride,
            )
        )
    places = op.ScatterElements(rows, op.Concat(*order, axis=0), rows)
    return op.Gather(op.Concat(*pooled, axis=0), places, axis=0)


def _flatten(boxes: Any, levels: Any) -> tuple[Any, Any, Any, Any]:
    """Return boxes (B * R, 4), levels (B * R,), the image of each, and 0 to B * R - 1."""
    shape = op.Shape(levels)
    images = op.Range(_int(0), op.Squeeze(op.Shape(levels, start=0, end=1), _ints(0)), _int(1))
    image = op.Reshape(op.Expand(op.Unsqueeze(images, _ints(1)), shape), _ints(-1))
    rows = op.Range(_int(0), op.ReduceProd(shape, keepdims=0), _int(1))
    return op.Reshape(boxes, _ints(-1, 4)), op.Reshape(levels, _ints(-1)), image, rows


def _roi_pool(x: Any, rois: Any, spatial_scale: float, pooled_height: int, pooled_width: int) -> tuple[Any, Any]:
    """Translate torchvision's RoIPool; the second output, of the backward pass, is never used."""
    pooled = op.MaxRoiPool(x, rois, pooled_shape=[pooled_height, pooled_width], spatial_scale=spatial_scale)
    return pooled, pooled
