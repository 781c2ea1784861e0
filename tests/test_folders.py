"""Folders to write to: what is in the way is said before the work begins."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from detseg.errors import ConfigError
from detseg.folders import make_folder, writing


def test_a_folder_is_made_with_those_above_it(tmp_path: Path) -> None:
    make_folder("--out", tmp_path / "a" / "b")
    make_folder("--out", tmp_path / "a")  # there already, and not empty: only a copy of data must have its own
    make_folder("--fix", tmp_path / "a" / "b", tmp_path / "data")
    assert (tmp_path / "a" / "b").is_dir()


def test_what_is_in_the_way(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "linked").symlink_to(data)
    for place in ("file", "file/below"):
        with pytest.raises(ConfigError, match=f"^--out .*{place}: cannot be made a folder: .*; name another"):
            make_folder("--out", tmp_path / place)
    for place in ("file", "."):
        with pytest.raises(ConfigError, match="is not an empty folder"):
            make_folder("--out", tmp_path / place, data)
    for place in ("data", "data/new", "linked/new"):
        with pytest.raises(ConfigError, match="lies in the data set"):
            make_folder("--out", tmp_path / place, data)
    assert not any(data.iterdir())


def test_a_full_disk_names_the_option(tmp_path: Path) -> None:
    with (
        pytest.raises(
            ConfigError, match=r"^--fix out: cannot be written: No space left on device \(out/a\.jpg\); make"
        ),
        writing("--fix", Path("out")),
    ):
        raise OSError(errno.ENOSPC, "No space left on device", "out/a.jpg")
