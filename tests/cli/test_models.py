"""The list of backbones, against what torchvision publishes about each."""

from __future__ import annotations

import contextlib
import io
import json
from functools import partial
from typing import Any

import pytest
import torchvision

from detseg import cli
from detseg.cli import models
from detseg.modules import backbones

FAMILIES = {name for name in backbones.__all__ if name not in ("Backbone", "ConvNet", "Timm")}


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory, quick_initialization: None) -> tuple[list[dict[str, Any]], str]:
    """As JSON and as a table, measured once, of one network of each family: tests of backbones count all."""
    texts = []
    with pytest.MonkeyPatch.context() as patch:
        for name in FAMILIES:
            kind = getattr(backbones, name)
            patch.setattr(kind, "variants", partial(list, kind.variants()[:1]))
        rows = list(models.describe())
        patch.setattr(models, "describe", lambda: rows)
        for arguments in (["--json"], ["--out", str(tmp_path_factory.mktemp("models") / "backbones.png")]):
            with contextlib.redirect_stdout(io.StringIO()) as text:
                cli.main(["models", *arguments])
            texts.append(text.getvalue())
    return json.loads(texts[0]), texts[1]


def test_every_family_is_listed(printed) -> None:
    rows, table = printed
    assert {row["backbone"] for row in rows} == FAMILIES
    assert all(name in table for name in (*FAMILIES, "Timm"))
    names = [row["arguments"]["name"] for row in rows if row["backbone"] == "ResNet"]
    assert names == ["plain18"]


def test_every_variant_is_listed() -> None:
    names = [arguments["name"] for arguments in backbones.ResNet.variants()]
    assert names == ["plain18", "plain34", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]


def test_the_figures_are_those_of_torchvision(printed) -> None:
    known = torchvision.models.list_models(module=torchvision.models)
    weights = [one for model in known for one in torchvision.models.get_model_weights(model)]
    sizes = {one.meta["num_params"]: one.meta["_ops"] for one in weights}
    pixels = {one.meta["num_params"]: one.transforms().crop_size[0] for one in reversed(weights)}
    for row in printed[0]:
        if row["backbone"] == "InceptionV3":  # whose classifier at the side torchvision counts, and evaluation drops
            assert row["pixels"] == torchvision.models.Inception_V3_Weights.IMAGENET1K_V1.transforms().crop_size[0]
            continue
        if row["weights"]:
            published = torchvision.models.get_model_weights(row["name"])["IMAGENET1K_V1"].meta["_metrics"]
            assert row["top1"] == published["ImageNet-1K"]["acc@1"]
        assert not row["weights"] or row["pixels"] == pixels[row["parameters"]]
        for licence in row["weights"].values():
            assert row["multiply_adds"] / 1e9 == pytest.approx(sizes[row["parameters"]], abs=2e-3)
            assert licence == "BSD-3-Clause"


def test_a_row_of_the_table(printed) -> None:
    """ResNeXt-50 32 x 4d: 25.0 million parameters, 4.2 billion multiply-adds (Xie et al. 2016, table 1)."""
    row = next(line for line in printed[1].splitlines() if "ResNeXt" in line and "depth=50" in line)
    assert "25.0" in row
    assert "4.23" in row


def test_an_option_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["models", "--yaml"])
    assert ended.value.code == 2
    assert "yaml (command line): there is no such setting" in capsys.readouterr().err
