"""Every image has exactly one result, whenever a run is killed, and however its images are divided."""

from __future__ import annotations

import json
import shutil
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from detseg.errors import ConfigError, DataError
from detseg.inference import result_files
from detseg.inference.result_files import ResultsWriter, Shard, finish, finished_images, merge_shards, read_lines, start

NAMES = [f"photos/{number} \u00e9.jpg" for number in range(6)]
SETTINGS: dict[str, Any] = {"classes": ["cat", "dog"], "threshold": 0.5}


def entry(name: str) -> dict[str, Any]:
    return {"file": name, "boxes": [[0, 0, 1, 1]], "classes": ["cat"]}


def run(file: Path, names: list[str], resume: bool = True, part: int = 0) -> None:
    """Write a line for each image without one."""
    done = finished_images(file) if resume else set()
    start(file, resume, SETTINGS)
    writer = ResultsWriter(file, part)
    for name in names:
        if name not in done:
            writer.append(entry(name))
    writer.close()


def written(file: Path) -> list[str]:
    return [one["file"] for _, one in read_lines(file)]


def test_a_run_that_is_killed_after_any_byte_is_completed(tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    run(file, NAMES[:3])
    whole = (tmp_path / "predictions.jsonl.part0").read_bytes()
    for length in range(len(whole) + 1):
        (tmp_path / "predictions.jsonl.part0").write_bytes(whole[:length])
        run(file, NAMES[:4])
        summary = finish(file)
        assert written(file) == NAMES[:4], length
        assert (summary.images, summary.objects) == (4, 4)
        file.unlink()
    assert [path.name for path in tmp_path.iterdir()] == [result_files.SETTINGS]


def test_a_long_unfinished_line_is_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "a"
    for whole, rest in ((b"", 3), (b"1\n", 3 * result_files.BLOCK), (b"1\n" + b"2" * result_files.BLOCK + b"\n", 0)):
        file.write_bytes(whole + b"x" * rest)
        result_files.cut_unfinished_line(file)
        assert file.read_bytes() == whole


def test_a_finished_run_is_extended_or_replaced(tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    run(file, NAMES[:2])
    finish(file)
    run(file, NAMES[:3])
    finish(file)
    assert written(file) == NAMES[:3]
    run(file, NAMES[4:], resume=False)
    finish(file)
    assert written(file) == NAMES[4:]


def test_a_kill_while_parts_are_joined_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "predictions.jsonl"
    run(file, NAMES[:3], part=0)
    run(file, NAMES, part=1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            finish(file)
    assert len(list(tmp_path.glob("*.part*"))) == 2
    run(file, NAMES)
    finish(file)
    assert written(file) == NAMES
    assert not list(tmp_path.glob("*.part*"))


@pytest.mark.parametrize("method", ["unlink", "replace"])
def test_a_kill_while_results_are_replaced_does_not_mix_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    file, other = tmp_path / "predictions.jsonl", {**SETTINGS, "threshold": 0.3}
    run(file, NAMES)
    finish(file)
    with monkeypatch.context() as patch:
        patch.setattr(Path, method, lambda *_, **__: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            start(file, False, other)
    assert json.loads((tmp_path / result_files.SETTINGS).read_text()) == SETTINGS or not finished_images(file)
    start(file, False, other)
    assert not finished_images(file)


def test_results_are_not_lost_or_mixed(tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    run(file, NAMES[:2])
    with pytest.raises(ConfigError, match=r"2 images of an interrupted run.*`resume=true`.*predictions\.jsonl\.part0"):
        start(file, False, SETTINGS)
    with pytest.raises(ConfigError, match=r"results of other settings \(threshold\)"):
        start(file, True, {**SETTINGS, "threshold": 0.3})
    path = tmp_path / result_files.SETTINGS
    for content in ("{", "[]", None):  # so that nobody knows the model of the results
        path.unlink() if content is None else path.write_text(content)
        with pytest.raises(
            DataError, match=r"predictions\.settings\.json: cannot be read: .*restore it, or predict into"
        ):
            start(file, True, SETTINGS)
    path.write_text(json.dumps(SETTINGS))
    finish(file)
    start(file, False, {**SETTINGS, "threshold": 0.3})  # replaces them
    assert not file.exists()
    (tmp_path / "predictions-1-of-2.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"other settings \(classes\)"):
        start(tmp_path / Shard(2, 2).file, False, {"classes": ["cow"], "threshold": 0.3})


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    for broken in ("no JSON", "[]", '{"file": 3}', '{"boxes": []}'):
        file.write_text(json.dumps(entry("a")) + f"\n{broken}\n")
        with pytest.raises(DataError, match=r"predictions\.jsonl: line 2 is not the result"):
            finished_images(file)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_divide_images_and_ranks_divide_shards(count: int) -> None:
    names = [f"{number}.jpg" for number in range(2000)]
    shards = [Shard(number, count) for number in range(1, count + 1)]
    parts = [[name for name in names if shard.holds(name)] for shard in shards]
    assert sorted(chain.from_iterable(parts)) == sorted(names)
    assert min(map(len, parts)) > 0.75 * 2000 / count
    for shard, part in zip(shards, parts, strict=True):
        ranks = [[name for name in names if shard.split(rank, 3).holds(name)] for rank in range(3)]
        assert sorted(chain.from_iterable(ranks)) == sorted(part)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2"])
def test_other_shards_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"shard {text}: must be"):
        Shard.parse(text)
    assert Shard.parse("2/3") == (2, 3)


def test_shards_are_merged_or_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    shards = [Shard(number, 3) for number in (1, 2, 3)]
    for shard in shards:
        run(whole / shard.file, [name for name in NAMES if shard.holds(name)])
        finish(whole / shard.file)

    def refused(change: Any, message: str) -> None:
        folder = tmp_path / "changed"
        shutil.copytree(whole, folder)
        change(folder)
        before = {path: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(DataError, match=message):
            merge_shards(folder)
        assert {path: path.read_bytes() for path in folder.iterdir()} == before
        shutil.rmtree(folder)

    second, first = ((whole / Shard(number, 3).file).read_bytes() for number in (2, 1))
    refused(lambda folder: (folder / Shard(2, 3).file).unlink(), r"1 of 3 shards are missing \(2\)")
    refused(lambda folder: ResultsWriter(folder / Shard(3, 3).file), r"1 of 3 shards are not complete \(3\)")
    refused(lambda folder: (folder / Shard(1, 2).file).touch(), "divisions into 2 and 3")
    doubled = len(first.splitlines())
    assert doubled
    refused(
        lambda folder: (folder / Shard(2, 3).file).write_bytes(second + first),
        f"{doubled} images occur several times and {doubled} in a shard that they do not belong to",
    )
    assert merge_shards(whole).images == len(NAMES)
    assert sorted(written(whole / "predictions.jsonl")) == NAMES
    assert sorted(path.name for path in whole.iterdir()) == ["predictions.jsonl", result_files.SETTINGS]
    with pytest.raises(DataError, match="holds no shards"):
        merge_shards(whole)


def test_a_kill_while_merged_shards_are_deleted_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = [Shard(number, 3) for number in (1, 2, 3)]
    for shard in shards:
        run(tmp_path / shard.file, [name for name in NAMES if shard.holds(name)])
        finish(tmp_path / shard.file)
    delete = Path.unlink

    def killed(path: Path) -> None:
        if path.name == shards[-1].file:
            pytest.fail("killed")
        delete(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(pytest.fail.Exception):
            merge_shards(tmp_path)
    left, results = tmp_path / shards[-1].file, tmp_path / "predictions.jsonl"
    assert left.exists()
    assert not (tmp_path / shards[0].file).exists()
    whole = results.read_bytes()
    results.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))  # older results, without an image of the shard
    with pytest.raises(DataError, match=r"2 of 3 shards are missing \(1, 2\)"):
        merge_shards(tmp_path)
    content = left.read_bytes()
    left.write_bytes(b"")  # lines of no image prove nothing
    with pytest.raises(DataError, match=r"2 of 3 shards are missing \(1, 2\)"):
        merge_shards(tmp_path)
    left.write_bytes(content)
    results.write_bytes(whole)
    assert merge_shards(tmp_path).images == len(NAMES)
    assert results.read_bytes() == whole
    assert not left.exists()
