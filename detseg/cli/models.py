"""`detseg models`: every backbone with its costs and its pretrained weights."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from detseg.analysis.efficiency import Cost, draw_efficiency
from detseg.cli._backbones import check_picture
from detseg.cli._parser import make_parser, parse
from detseg.models import Classifier
from detseg.modules import backbones
from detseg.modules.backbones import Backbone, ConvNet
from detseg.modules.backbones.weights import published

WIDTH = 160  # columns of a table that goes to a file
LICENCE = "BSD-3-Clause"  # torchvision's, where its weights name no other


def run(arguments: Sequence[str]) -> None:
    """Print a row for every backbone and variant."""
    parser = make_parser("models", "[--json] [--out FILE.png]")
    parser.add_argument("--json", action="store_true", help="Print a list of objects instead of a table.")
    parser.add_argument("--out", type=Path | None, help="Picture of the published accuracy against the cost.")
    options = parse(parser, arguments)
    if options.out:
        check_picture(options.out)
    rows = list(describe())
    if options.out:
        bubbles = [
            Cost(row["name"], row["parameters"], row["multiply_adds"], math.nan, row["top1"])
            for row in rows
            if row["top1"] is not None
        ]
        Image.fromarray(draw_efficiency("top-1 accuracy on ImageNet, published, %", bubbles)).save(options.out)
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    table = Table("backbone", "arguments", "M", "G", "pixels", "strides", "channels", "weights (licence)")
    for row in rows:
        given = " ".join(f"{key}={value}" for key, value in row["arguments"].items())
        costs = f"{row['parameters'] / 1e6:.1f}", f"{row['multiply_adds'] / 1e9:.2f}", str(row["pixels"])
        maps = (" ".join(map(str, row[key])) for key in ("strides", "channels"))
        weights = ", ".join(f"{name} ({licence})" for name, licence in row["weights"].items())
        table.add_row(row["backbone"], given, *costs, *maps, weights or "none")
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)
    print("M, G: millions of parameters and billions of multiply-adds as a classifier of 1000 classes.")
    print("Beside these: Timm with name=NAME, any network of timm that gives feature maps (detseg[timm]).")
    print("ImageNet's own terms hold for all weights that were trained with it.")


def describe() -> Iterator[dict[str, Any]]:
    """Yield the row of every backbone, by families; computed on the meta device."""
    for family in backbones.__all__:
        kind: type[Backbone] = getattr(backbones, family)
        if kind not in (Backbone, ConvNet):
            for arguments in kind.variants():
                yield {"backbone": family, "arguments": arguments, **_measure(kind, arguments)}


def _measure(kind: type[Backbone], arguments: dict[str, Any]) -> dict[str, Any]:
    with torch.device("meta"):
        backbone: Any = kind(**arguments)
        classifier = Classifier(backbone, num_classes=1000).eval()
        weights = [torchvision.models.get_model_weights(backbone.name)[name] for name in published(backbone.name)]
        side = backbone.image_size
        with FlopCounterMode(display=False) as counter:
            classifier(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    return {
        "name": backbone.name,
        "parameters": sum(value.numel() for part in (backbone, classifier.head) for value in part.parameters()),
        "multiply_adds": counter.get_total_flops() // 2,
        "pixels": side,
        "strides": backbone.strides,
        "channels": backbone.channels,
        "weights": {one.name: one.meta.get("license", LICENCE) for one in weights},
        "top1": weights[0].meta["_metrics"]["ImageNet-1K"]["acc@1"] if weights else None,
    }
