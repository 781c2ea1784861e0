from __future__ import annotations

import dataclasses
import pickle
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.loading.proposals import Proposals, Writer, cache_file, make_header
from detseg.errors import DataError
from detseg.proposals.grid import grid
from detseg.proposals.parallel import compute_proposals
from tests.data import made

COMMAND = "detseg propose --data X"


def images(folder: Path, count: int) -> DetectionAnnotations:
    for number in range(count):
        made.image(folder / f"{number}.png", 50, 60, seed=number)
    whole = made.annotations([1] * count)
    return dataclasses.replace(whole, root=folder, files=np.array([f"{number}.png" for number in range(count)]))


def boxes(row: int) -> NDArray[np.float32]:
    return np.random.default_rng(row).uniform(0, 50, (row % 5, 4)).astype(np.float32)


def fill(file: Path, annotations: DetectionAnnotations, rows: range, method: str = "grid") -> Path:
    with Writer(file, make_header(annotations, method)) as writer:
        for row in rows:
            writer.add(row, boxes(row), 0.5)
    return file


def test_what_is_written_is_read(tmp_path: Path) -> None:
    annotations = images(tmp_path, 6)
    file = fill(cache_file(tmp_path / "new" / "folder", "train"), annotations, range(6))
    assert file.name == "train.sqlite"
    proposals = pickle.loads(pickle.dumps(Proposals(file, annotations, COMMAND)))
    for row in range(6):
        assert proposals[row].dtype == np.float32
        assert np.array_equal(proposals[row], boxes(row))
    assert proposals.seconds() == 0.5
    labels_changed = dataclasses.replace(annotations, labels=annotations.labels + 1)
    assert np.array_equal(Proposals(file, labels_changed, COMMAND)[3], boxes(3))


KILLED = """
import sys, time
from pathlib import Path
import numpy as np
from detseg.data.loading import proposals as cache
from detseg.proposals.grid import grid
from detseg.proposals.parallel import compute_proposals
from tests.proposals.test_cache import images

cache.SECONDS = float(sys.argv[3])

def slow(image):
    time.sleep(0.1)
    return grid(image)

if __name__ == "__main__":
    annotations = images(Path(sys.argv[1]), 12)
    paths = [(annotations.path(row), (50, 60)) for row in range(12)]
    with cache.Writer(Path(sys.argv[2]), cache.make_header(annotations, "grid")) as writer:
        for row, (boxes, seconds) in enumerate(compute_proposals(slow, paths, 2)):
            writer.add(row, boxes, seconds)
            print(row, flush=True)
"""


@pytest.mark.parametrize("seconds", [0, 1000])
def test_after_a_kill_the_rest_is_made_and_all_is_as_without_one(tmp_path: Path, seconds: int) -> None:
    """Once everything is saved at once, once nothing is before the end."""
    script, file = tmp_path / "script.py", tmp_path / "train.sqlite"
    script.write_text(KILLED)
    root = Path(__file__).parents[2]
    command = [sys.executable, str(script), str(tmp_path), str(file), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env={"PYTHONPATH": str(root)})
    assert process.stdout is not None
    for _ in range(5):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read()  # ends when the last of its processes has gone
    assert process.wait() == -signal.SIGKILL
    assert "11" not in rest.split()

    annotations = images(tmp_path, 12)
    done = 0 if seconds else r"\d+"
    with pytest.raises(DataError, match=rf"unfinished, {done} of 12 images; continue: {COMMAND} --method grid"):
        Proposals(file, annotations, COMMAND)
    with Writer(file, make_header(annotations, "grid")) as writer:
        missing = writer.missing()
        assert len(missing) == 12 if seconds else 0 < len(missing) < 9
        paths = [(annotations.path(row), (50, 60)) for row in missing]
        for row, (found, time) in zip(missing, compute_proposals(grid, paths, 1), strict=True):
            writer.add(row, found, time)
    resumed = Proposals(file, annotations, COMMAND)
    with Writer(tmp_path / "unbroken.sqlite", make_header(annotations, "grid")) as writer:
        for row, (found, time) in enumerate(
            compute_proposals(grid, [(annotations.path(row), (50, 60)) for row in range(12)], 1)
        ):
            writer.add(row, found, time)
    unbroken = Proposals(tmp_path / "unbroken.sqlite", annotations, COMMAND)
    assert all(np.array_equal(resumed[row], unbroken[row]) for row in range(12))


def test_a_missing_file_says_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"train.sqlite: no such file of proposals; compute it: {COMMAND} --method sel"):
        Proposals(tmp_path / "train.sqlite", images(tmp_path, 2), COMMAND)


def test_other_images_are_refused(tmp_path: Path) -> None:
    annotations = images(tmp_path, 4)
    file = fill(tmp_path / "train.sqlite", annotations, range(4))
    made.image(tmp_path / "2.png", 50, 60, seed=99)
    with (tmp_path / "2.png").open("ab") as stream:
        stream.write(b"longer")
    changed = f"^{file}: made for other images .*; remove it and compute it again: {COMMAND} --method grid$"
    with pytest.raises(DataError, match=changed):
        Proposals(file, annotations, COMMAND)
    with pytest.raises(DataError, match=f"^{file}: made for other images"):
        Writer(file, make_header(annotations, "grid"))
    made.image(tmp_path / "2.png", 50, 60, seed=2)
    assert Proposals(file, annotations, COMMAND)
    with pytest.raises(DataError, match=changed):
        Proposals(file, annotations.subset([1, 0, 2, 3]), COMMAND)
    (tmp_path / "3.png").unlink()
    with pytest.raises(DataError, match=r"3\.png: cannot read this image"):
        Proposals(file, annotations, COMMAND)


def test_other_settings_and_a_second_writer_are_refused(tmp_path: Path) -> None:
    annotations = images(tmp_path, 2)
    file = fill(tmp_path / "train.sqlite", annotations, range(1))
    with pytest.raises(DataError, match=f"^{file}: computed by grid"):
        Writer(file, make_header(annotations, "selective_search", name="other"))
    with Writer(file, make_header(annotations, "grid")):
        with pytest.raises(DataError, match=f"^{file}: another process is writing it"):
            Writer(file, make_header(annotations, "grid"))
        with pytest.raises(DataError, match=f"^{file}: another process is writing it"):
            Proposals(file, annotations, COMMAND)


def test_what_was_made_before_an_error_is_kept(tmp_path: Path) -> None:
    annotations = images(tmp_path, 3)
    (tmp_path / "2.png").write_bytes(b"nothing")
    paths = [(annotations.path(row), (50, 60)) for row in range(3)]

    def write() -> None:
        with Writer(tmp_path / "train.sqlite", make_header(annotations, "grid")) as writer:
            for row, (found, seconds) in enumerate(compute_proposals(grid, paths, 1)):
                writer.add(row, found, seconds)

    with pytest.raises(DataError, match=r"2\.png: not an image"):
        write()
    with Writer(tmp_path / "train.sqlite", make_header(annotations, "grid")) as again:
        assert again.missing() == [2]


def test_foreign_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    annotations = images(tmp_path, 2)
    text, database, folder, empty = (tmp_path / name for name in ("text", "database", "folder", "empty"))
    text.write_text("something of somebody else's" * 50)
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE about (other INTEGER)")
    connection.close()
    folder.mkdir()
    for file in (text, database, folder):
        before = file.read_bytes() if file.is_file() else None
        with pytest.raises(DataError, match=f"^{file}: .*{COMMAND}"):
            Proposals(file, annotations, COMMAND)
        with pytest.raises(DataError, match=f"^{file}: .*choose another folder"):
            Writer(file, make_header(annotations, "grid"))
        assert before is None or file.read_bytes() == before
    empty.touch()
    with pytest.raises(DataError, match=f"^{empty}: empty; continue: {COMMAND}"):
        Proposals(empty, annotations, COMMAND)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_file_is_refused_or_gives_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    annotations = images(folder, 6)
    whole = folder / "whole.sqlite"
    content = bytearray((whole if whole.exists() else fill(whole, annotations, range(6))).read_bytes())
    for _ in range(data.draw(st.integers(0, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file = folder / "train.sqlite"
    file.write_bytes(content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))])
    try:
        proposals = Proposals(file, annotations, COMMAND)
        for row in range(6):
            assert np.array_equal(proposals[row], boxes(row))
    except DataError as error:
        message = str(error)
    else:
        message = f"{file} {COMMAND}"
    assert message.startswith(str(file))
    assert COMMAND in message


def test_damaged_boxes_are_refused(tmp_path: Path) -> None:
    annotations = images(tmp_path, 6)
    file = fill(tmp_path / "train.sqlite", annotations, range(6))
    content = bytearray(file.read_bytes())
    content[content.index(boxes(4).tobytes()) + 5] ^= 1
    file.write_bytes(content)
    proposals = Proposals(file, annotations, COMMAND)
    assert np.array_equal(proposals[3], boxes(3))
    with pytest.raises(DataError, match=rf"^{file}: damaged.*the boxes of image 4.*{COMMAND} --method grid"):
        proposals[4]
