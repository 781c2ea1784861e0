"""Exported models: equal to their checkpoints, and refused if anything in the graph is changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper

from detseg.errors import CheckpointError, ConfigError, ExportError
from detseg.export.delivery import certify, export, report_path
from detseg.export.int8 import quantize
from detseg.export.openvino import convert
from detseg.export.proof import Reference
from detseg.export.proof_images import ProofImage, drawn_images
from detseg.export.torch import ProgramEngine
from detseg.runtime import open_engine
from tests.export.models import CLASSES, FRAME, IMAGES, MODELS, SIZES, make

SPECIAL = 4  # images: empty, one pixel, noise, a crowd


@pytest.mark.parametrize("name", MODELS)
def test_the_file_equals_its_checkpoint(name: str, exported: Any) -> None:
    model, path, report = exported(name)
    assert report["passed"]
    assert report["images"] == IMAGES
    assert report["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    if hasattr(model, "needs_masks"):
        assert report["detections"] > 10 * IMAGES
        assert 0 < report["max_box_difference"] <= 1e-2
        assert (report["mask_cells"] > 0) == model.needs_masks
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert operators & {"Loop", "If", "Scan", "SequenceAt"} == set()


@pytest.mark.parametrize("name", MODELS)
def test_the_file_describes_itself(name: str, exported: Any) -> None:
    model, path, _ = exported(name)
    metadata = open_engine(path).metadata
    assert metadata["classes"] == list(CLASSES)
    assert metadata["model"] == type(model).__name__
    assert tuple(metadata["frame"]) == SIZES.get(name, FRAME)
    assert set(metadata["versions"]) == {"detseg", "torch", "torchvision", "python"}
    if name == "mask_rcnn":
        assert metadata["preprocessing"] == {"min_size": 96, "max_size": 128}
        assert metadata["thresholds"]["nms_threshold"] == 0.5


# Each changes one thing in the graph of a Mask R-CNN.


def after(graph: Any, output: str, operator: str, *inputs: NodeProto, **attributes: Any) -> None:
    """Apply an operator to an output."""
    for node in graph.node:
        node.output[:] = [f"{name}_before" if name == output else name for name in node.output]
        node.input[:] = [f"{name}_before" if name == output else name for name in node.input]
    constants = [helper.make_node("Constant", [], [f"{output}_{i}"], value=each) for i, each in enumerate(inputs)]
    names = [each.output[0] for each in constants]
    graph.node.extend([*constants, helper.make_node(operator, [f"{output}_before", *names], [output], **attributes)])


def before(graph: Any, name: str, operator: str, value: Any, **attributes: Any) -> None:
    """Apply an operator to an input."""
    for node in graph.node:
        node.input[:] = [f"{name}_after" if each == name else each for each in node.input]
    constant = helper.make_node("Constant", [], [f"{name}_constant"], value=value)
    changed = helper.make_node(operator, [name, f"{name}_constant"], [f"{name}_after"], **attributes)
    graph.node.insert(0, changed)
    graph.node.insert(0, constant)


def tensor(*values: Any, kind: type = np.int64) -> TensorProto:
    return numpy_helper.from_array(np.array(values, dtype=kind))


def nodes(graph: Any, operator: str) -> list[NodeProto]:
    chosen = [node for node in graph.node if node.op_type == operator]
    assert chosen
    return chosen


def set_attribute(graph: Any, operator: str, name: str, value: Any) -> None:
    for node in nodes(graph, operator):
        kept = [attribute for attribute in node.attribute if attribute.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])


def set_last_input(graph: Any, operator: str, position: int, value: TensorProto) -> None:
    """Replace an input of the last node of an operator; the last NMS is that of the box head."""
    value.name = f"changed_{operator}_{position}"
    graph.initializer.append(value)
    nodes(graph, operator)[-1].input[position] = value.name


def bypass(graph: Any, operator: str) -> None:
    """Remove every node of an operator; its first input takes its place."""
    for node in nodes(graph, operator):
        node.op_type = "Identity"
        node.input[:] = node.input[:1]
        del node.attribute[:]


def ignore_sizes(graph: Any) -> None:
    before(graph, "image_sizes", "Max", tensor(FRAME))


BREAKS: dict[str, Callable[[Any], None]] = {
    "x and y are swapped": lambda graph: after(graph, "boxes", "Gather", tensor(1, 0, 3, 2), axis=2),
    "boxes are rounded": lambda graph: after(graph, "boxes", "Round"),
    "boxes are not clipped": lambda graph: bypass(graph, "Min"),
    "NMS has another threshold": lambda graph: set_last_input(
        graph, "NonMaxSuppression", 3, tensor(0.52, kind=np.float32)
    ),
    "RoIAlign is half a pixel off": lambda graph: set_attribute(
        graph, "RoiAlign", "coordinate_transformation_mode", "half_pixel"
    ),
    "RoIAlign samples one point a bin": lambda graph: set_attribute(graph, "RoiAlign", "sampling_ratio", 1),
    "colours are in the order BGR": lambda graph: before(graph, "images", "Gather", tensor(2, 1, 0), axis=1),
    "sizes are ignored": ignore_sizes,
    "scores are 0.05 % too high": lambda graph: after(graph, "scores", "Mul", tensor(1.0005, kind=np.float32)),
    "masks are transposed": lambda graph: after(graph, "masks", "Transpose", perm=[0, 1, 3, 2]),
    "the last detection is not counted": lambda graph: after(graph, "num_detections", "Sub", tensor(1)),
    "regions are pooled from the first image": lambda graph: first_image(graph),
}


def first_image(graph: Any) -> None:
    for number, node in enumerate(nodes(graph, "RoiAlign")):
        zero = helper.make_node("Sub", [node.input[2], node.input[2]], [f"zero_{number}"])
        graph.node.insert(list(graph.node).index(node), zero)
        node.input[2] = f"zero_{number}"


@pytest.mark.parametrize("change", BREAKS)
def test_a_broken_graph_is_refused_and_deleted(change: str, exported: Any, tmp_path: Path) -> None:
    model, source, _ = exported("mask_rcnn")
    broken = onnx.load(source)
    BREAKS[change](broken.graph)
    path = tmp_path / "broken.onnx"
    onnx.save(broken, path)
    with pytest.raises(ExportError, match=r"broken\.onnx: deleted, since it does not compute") as refused:
        certify(model, path, FRAME, (), SPECIAL)
    assert "cannot be computed" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_the_unbroken_graph_passes_the_same_test(exported: Any, tmp_path: Path) -> None:
    model, source, _ = exported("mask_rcnn")
    path = tmp_path / "whole.onnx"
    onnx.save(onnx.load(source), path)
    assert certify(model, path, FRAME, (), SPECIAL)["passed"]


@pytest.mark.parametrize("name", ["mask_rcnn", "fcn"])
def test_openvino_equals_the_checkpoint_too(name: str, exported: Any, tmp_path: Path) -> None:
    model, source, _ = exported(name)
    metadata = open_engine(source).metadata
    convert(source, tmp_path / "model.xml", metadata)
    assert certify(model, tmp_path / "model.xml", FRAME, (), SPECIAL)["passed"]
    assert open_engine(tmp_path / "model.xml").metadata == metadata


def test_a_program_of_pytorch_equals_the_checkpoint_too(tmp_path: Path) -> None:
    assert export(make("fcn"), tmp_path / "model.pt2", "torch", FRAME, count=SPECIAL)["passed"]
    assert ProgramEngine(tmp_path / "model.pt2").metadata["classes"] == list(CLASSES)
    with pytest.raises(CheckpointError, match=r"model\.pt2: not opened here, since loading a \.pt2 file can run code"):
        open_engine(tmp_path / "model.pt2")


def test_half_precision_halves_the_weights(exported: Any, tmp_path: Path) -> None:
    """Detections differ only by the rounding of the weights."""
    model, source, _ = exported("classifier")
    report = export(model, tmp_path / "half.onnx", count=SPECIAL, half=True)
    assert report["passed"]
    sizes = [file.stat().st_size for file in (tmp_path / "half.onnx", source)]
    weights = sum(value.numel() for value in model.parameters() if value.ndim > 1)
    assert 0.95 < (sizes[1] - sizes[0]) / (2 * weights) <= 1  # bytes
    image = {"images": np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64), np.uint8)}
    scores = [open_engine(file)(image)["scores"] for file in (tmp_path / "half.onnx", source)]
    assert 0 < np.abs(scores[0] - scores[1]).max() < 1e-2


def test_quantized_convolutions_cost_a_stated_part_of_ap(exported: Any, tmp_path: Path) -> None:
    """Beside the detections of the checkpoint itself as objects, so that its AP is 1."""
    model, source, report = exported("retinanet")
    path = tmp_path / "small.onnx"
    images = [annotate(model, image, number) for number, image in enumerate(islice(drawn_images(FRAME), 4))]
    for limit, passed in ((100.0, True), (-1.0, False)):
        path.write_bytes(source.read_bytes())
        report_path(path).write_text(json.dumps(report))
        with (
            nullcontext()
            if passed
            else pytest.raises(ExportError, match=r"small\.onnx: deleted, since 8 bits lower AP")
        ):
            before, after = quantize(model, path, FRAME, images, images, limit)["int8"]["ap"]["AP"]
            assert before > 0.99
            assert 0 < after < before
            assert sum(node.op_type == "QuantizeLinear" for node in onnx.load(path).graph.node) > 5
    assert list(tmp_path.iterdir()) == []


def annotate(model: Any, image: ProofImage, number: int) -> ProofImage:
    """Take the detections of a model in an image as its objects."""
    reference = Reference(model)
    outputs = {name: torch.from_numpy(value)[0] for name, value in reference(reference.inputs([image], FRAME)).items()}
    count = int(outputs["num_detections"])
    target = {name: outputs[name][:count] for name in ("boxes", "labels")}
    return image._replace(target={**target, "size": image.pixels.shape[:2], "image_index": number})


@pytest.mark.parametrize("frame", [(100, 128), (0, 32)])
def test_frames_are_multiples_of_the_stride(frame: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be multiples of 32"):
        export(make("fcn"), tmp_path / "a.onnx", "onnx", frame)


def test_images_that_keep_their_size_need_a_frame(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give the height and width of the largest"):
        export(make("fcn"), tmp_path / "a.onnx")
