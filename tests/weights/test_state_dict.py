"""Files of weights of every kind and fault, and what is said of those that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from detseg.errors import CheckpointError
from detseg.weights import model_card
from detseg.weights.state_dict import model_state_dict, read, read_weights, state_dict_mismatch


def test_the_same_weights_from_every_kind_of_file(tmp_path: Path) -> None:
    state = {"conv.weight": torch.arange(3.0)}
    prefixed = {f"model.{name}": value for name, value in state.items()}
    torch.save(state, tmp_path / "plain.pth")
    save_file(state, tmp_path / "plain.safetensors")
    torch.save({"state_dict": prefixed, "detseg": {"classes": ["a"]}}, tmp_path / "task.ckpt")
    model_card.write(tmp_path / "folder", prefixed, {"classes": ["a"]})
    for name in ("plain.pth", "plain.safetensors", "task.ckpt", "folder"):
        found = model_state_dict(read_weights(tmp_path / name))
        assert list(found) == ["conv.weight"]
        assert found["conv.weight"].tolist() == [0, 1, 2]
    assert read(tmp_path / "folder")["detseg"]["classes"] == ["a"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1], "holds a list, not a checkpoint"),
        ({"model": {"x": torch.zeros(1)}}, "not a state dict: model is not a tensor"),
        ({1: torch.zeros(1)}, "not a state dict"),
        ({"detseg": {}}, "not a state dict"),
        ({"detseg": {}, "state_dict": {"model.x": 3}}, "not a state dict: model.x is not a tensor"),
        ({"x": Path("x")}, "holds pathlib.*, and only tensors and plain values are read"),
    ],
)
def test_what_is_no_file_of_weights(content: Any, said: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=rf"x\.pth: {said}"):
        read_weights(tmp_path / "x.pth")


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_damaged_and_missing_files(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{name}: no such file"):
        read(tmp_path / name)
    (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=f"{name}: damaged, truncated, or not a checkpoint"):
        read(tmp_path / name)


def test_what_does_not_fit_is_counted_and_named() -> None:
    own = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).state_dict()
    assert state_dict_mismatch(own, own) == ""
    without_counts = {name: value for name, value in own.items() if name != "1.num_batches_tracked"}
    assert state_dict_mismatch(without_counts, own) == state_dict_mismatch(own, without_counts) == ""
    given = {**own, "2.weight": torch.zeros(1), "0.weight": torch.zeros(4, 2), "0.bias": torch.zeros(4)}
    del given["1.bias"]
    assert state_dict_mismatch(given, own) == (
        "1 missing (such as 1.bias), 1 unexpected (such as 2.weight), 2 of another shape (such as 0.weight)"
    )
    required = lambda name: name not in ("1.bias", "0.bias")  # noqa: E731
    unexpected = "1 unexpected (such as 2.weight)"
    assert state_dict_mismatch(given, own, required) == f"{unexpected}, 1 of another shape (such as 0.weight)"
    assert state_dict_mismatch(given, own, required, lambda name, value: tuple(value.shape[1:])) == unexpected
