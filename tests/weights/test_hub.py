"""Models on the Hugging Face Hub, beside a stand-in of its library that keeps commits in a folder."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import detseg
from detseg import cli
from detseg.checkpoint import save
from detseg.errors import CheckpointError, ConfigError, DetsegError
from detseg.tasks import ClassificationTask
from detseg.weights import hub
from tests.export.models import make


class Hub:
    """Repositories as folders of commits, which are numbered; the last one is the newest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create_repo(self, repository: str, exist_ok: bool) -> None:
        (self.folder / repository).mkdir(parents=True, exist_ok=exist_ok)

    def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> Any:
        commit = f"{len(list((self.folder / repo_id).iterdir())):040x}"
        shutil.copytree(folder_path, self.folder / repo_id / commit)
        return SimpleNamespace(oid=commit)

    def snapshot_download(self, repository: str, revision: str | None, allow_patterns: list[str]) -> str:
        commits = sorted((self.folder / repository).iterdir())
        chosen = commits[-1] if revision is None else self.folder / repository / revision
        if not chosen.is_dir():
            raise FileNotFoundError(f"no revision {revision}")
        assert {"card.json", "model.safetensors"} == set(allow_patterns)
        return str(chosen)


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    standin = Hub(tmp_path / "hub")
    library = SimpleNamespace(HfApi=lambda: standin, snapshot_download=standin.snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", library)  # type: ignore[arg-type]
    return standin


def test_a_revision_is_the_model_that_was_published(
    standin: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model: Any = make("classifier")
    weights = []
    for number in range(2):
        model.head[-1].bias.data += 1
        weights.append(model.head[-1].bias.detach().clone())
        save(ClassificationTask(model), tmp_path / "a.ckpt")
        out = tmp_path / f"published{number}"
        cli.main(["publish", str(tmp_path / "a.ckpt"), "--out", str(out), "--to", "hf://me/colours"])
    first, second = f"{0:040x}", f"{1:040x}"
    for address, expected in {f"hf://me/colours@{first}": weights[0], "hf://me/colours": weights[1]}.items():
        with caplog.at_level("INFO", "detseg"):
            loaded: Any = detseg.load(address, device="cpu").model
        assert torch.equal(loaded.head[-1].bias, expected)
    assert f"hf://me/colours: hf://me/colours@{second}" in caplog.text


@pytest.mark.parametrize("address", ["hf://colours", "hf://me/a/b", "hf://me/colours@", "hf://me/../x y"])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="must be hf://user/name or hf://user/name@revision"):
        hub.download(address)


def test_errors_name_the_address(standin: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    standin.create_repo("me/colours", exist_ok=True)
    with pytest.raises(CheckpointError, match="hf://me/colours@v9: cannot be downloaded: no revision v9"):
        hub.download("hf://me/colours@v9")
    with pytest.raises(ConfigError, match="leave out @v9"):
        hub.upload(Path(), "hf://me/colours@v9")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DetsegError, match=r"pip install 'detseg\[hub\]'"):
        hub.download("hf://me/colours")
