"""Checkpoint files: written atomically, verified by a digest."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from detseg.errors import CheckpointError
from detseg.weights import checkpoint_file, state_dict

CONTENT = {"a": torch.arange(1000.0), "b": [1, "text"]}


def test_it_is_a_file_of_torch(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "last.ckpt"
    checkpoint_file.write(CONTENT, path)
    assert torch.equal(torch.load(path, weights_only=True)["a"], CONTENT["a"])
    assert torch.equal(state_dict.read(path)["a"], CONTENT["a"])
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("place", [100, 2500, -80, -10])
def test_a_flipped_bit_is_noticed(tmp_path: Path, place: int) -> None:
    path = tmp_path / "last.ckpt"
    checkpoint_file.write(CONTENT, path)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"last\.ckpt: damaged"):
        state_dict.read(path)


def test_a_file_that_is_cut_off_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    checkpoint_file.write(CONTENT, path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(CheckpointError, match=r"last\.ckpt: damaged"):
        state_dict.read(path)


def test_files_of_others_have_no_digest(tmp_path: Path) -> None:
    torch.save(CONTENT, tmp_path / "other.pt")
    assert torch.equal(state_dict.read(tmp_path / "other.pt")["a"], CONTENT["a"])


@pytest.mark.parametrize("links", [True, False])
def test_the_file_before_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    path, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    if not links:
        monkeypatch.setattr("os.link", _refuse)
    for number in range(3):
        checkpoint_file.write({"number": number}, path, previous)
    assert state_dict.read(path)["number"] == 2
    assert state_dict.read(previous)["number"] == 1


def _refuse(*args: Any) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    checkpoint_file.write({"number": 1}, path)

    def full(self: Any, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_file._Hashing, "write", full)
    with pytest.raises(CheckpointError, match=r"cannot be written: No space left.* needs 4 MiB, and \d+ MiB"):
        checkpoint_file.write({"a": torch.zeros(2**20)}, path)
    assert state_dict.read(path)["number"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
