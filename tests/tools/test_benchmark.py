"""The benchmark in its smallest form: that it runs, that its sides do the same work, and what it counts."""

from __future__ import annotations

import importlib
import json
import math
import runpy
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from detseg import kernels
from detseg.models import MaskRCNN
from detseg.modules import FPN, RoIAlign
from detseg.modules.backbones import ResNet
from detseg.ops.masks import crop_and_resize_mean
from detseg.structures import Instances

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))


def benchmark(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, Any]:
    """What the tool defines, after it has run."""
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *arguments])
    return runpy.run_path(str(TOOLS / "benchmark.py"), run_name="__main__")


def test_a_table_and_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = str(torch.get_num_threads())
    small = ["--size", "64", "64", "--repeats", "1", "--precision", "fp32", "--threads", threads]
    benchmark(monkeypatch, "infer", "masks", *small, "--json", str(tmp_path / "figures.json"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-2:]] == ["infer", "masks"]
    assert "images/s" in lines[-2]
    assert "of peak" in lines[-2]
    figures = json.loads((tmp_path / "figures.json").read_text())
    ours, theirs = (figures["parts"]["infer fp32"][side] for side in ("detseg", "torchvision"))
    assert ours["images_per_second"] == pytest.approx(1000 / ours["ms"])
    assert ours["share"] > 0
    assert figures["parts"]["masks"]["ratio"] > 0
    assert theirs["least"] <= theirs["ms"]


@pytest.mark.parametrize("part", ["mobilenet_train", "mask_train"])
def test_both_sides_are_the_same_network(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """The same maps of the same images, and as much to learn."""
    detectors: Any = importlib.import_module("benchmarks.detectors")
    monkeypatch.setattr(detectors.detectron2, "there", lambda: False)
    kept: dict[str, Any] = {}
    monkeypatch.setattr(detectors, "steps", lambda sides, data, *_: kept.update(sides, data=data) or {})
    getattr(detectors, part)("cpu", False, detectors.Shape(1, 96, 128))
    images, ours, theirs = kept["data"].images, kept["detseg"], kept["torchvision"]
    learnt = [sum(p.numel() for p in side.parameters() if p.requires_grad) for side in (ours, theirs)]
    # torchvision's last layers have rows for the background: a box of 4 numbers, and a mask
    channels = 1025 * 4 + (257 if part == "mask_train" else 0)
    assert learnt[1] - learnt[0] == channels
    with torch.no_grad():
        others = theirs.eval().backbone(theirs.transform([images[0] / 255])[0].tensors).values()
        for own, other in zip(ours.eval().backbone(images), others, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))


def test_masks_are_the_same_on_every_side() -> None:
    detectors: Any = importlib.import_module("benchmarks.detectors")
    data = detectors.batch(detectors.Shape(2, 200, 300), "cpu", 5, masks=True)
    for row, (maps, polygons) in enumerate(zip(detectors.maps(data), detectors.polygons(data), strict=True)):
        for slot, box in enumerate(data.targets.boxes[row]):
            sides = box[2:] - box[:2]
            area = float(sides.prod()) * math.pi / 4
            assert float(maps[slot].sum()) == pytest.approx(area, rel=0.03)
            x, y = polygons[slot].T
            assert float((x * y.roll(-1) - y * x.roll(-1)).sum() / 2) == pytest.approx(area, rel=0.03)
            grid = data.targets.masks[row, slot].float() / 255
            small = crop_and_resize_mean(maps[slot][None].float(), box[None], 7)[0]
            torch.testing.assert_close(grid.view(7, 32, 7, 32).mean(dim=(1, 3)), small, rtol=0, atol=0.15)


def test_both_ways_to_pool_regions_on_a_gpu_give_the_same() -> None:
    operations: Any = importlib.import_module("benchmarks.operations")
    torch.manual_seed(0)
    sizes = [(2, 3, 480 // stride, 640 // stride) for stride in operations.STRIDES]
    maps = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes]
    boxes = operations.regions(2, 40, "cpu").double()
    boxes = Instances(boxes, torch.ones(2, 40, dtype=torch.bool))
    ways = []
    for fast in (True, False):
        with kernels.use(fast):
            ways.append(RoIAlign()(maps, boxes, operations.STRIDES, 7))
    weight = torch.randn_like(ways[0])
    gradients = [torch.autograd.grad((pooled * weight).sum(), maps) for pooled in ways]
    torch.testing.assert_close(*ways)
    torch.testing.assert_close(*gradients)


def test_names_of_detectron2() -> None:
    peer: Any = importlib.import_module("benchmarks.detectron2")
    names = [peer.their_name(name) for name in MaskRCNN(FPN(ResNet("resnet50", norm="frozen")), 3).state_dict()]
    assert len(set(names)) == len(names)
    assert {name.split(".")[0] for name in names} == {"backbone", "proposal_generator", "roi_heads"}
    assert {
        "backbone.bottom_up.stem.conv1.norm.running_var",
        "backbone.bottom_up.res3.0.shortcut.weight",
        "backbone.bottom_up.res3.0.shortcut.norm.bias",
        "backbone.bottom_up.res5.2.conv3.norm.weight",
        "backbone.fpn_lateral2.weight",
        "backbone.fpn_output5.bias",
        "roi_heads.mask_head.mask_fcn4.weight",
    } <= set(names)


def test_waits_of_a_gpu_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the warnings of PyTorch's debug mode; there is no GPU, so the mode is noted and the warnings are made here."""
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(sys, "argv", ["benchmark.py"])
    tool = runpy.run_path(str(TOOLS / "benchmark.py"))

    def call() -> None:
        if modes and modes[-1] == "warn":
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            warnings.warn("something else", stacklevel=1)

    found = tool["measure"]({"detseg": call, "torchvision": call}, 2, "cuda")
    assert (found["detseg"]["waits"], found["torchvision"]["waits"]) == (2, 2)
    assert modes == ["warn", "default"] * 2
    assert found["detseg"]["variation"] >= 0
    figures = {side: {**each, "images_per_second": 10.0, "share": 0.5} for side, each in found.items()}
    assert "waits 2 (2)" in tool["row"]("train bf16", figures)


def test_operations_are_those_of_products() -> None:
    sys.argv = sys.argv[:1]
    tool = runpy.run_path(str(TOOLS / "benchmark.py"))
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert tool["operations_of"](lambda: a @ b) == 2 * 3 * 5 * 7
