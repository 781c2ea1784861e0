from __future__ import annotations

import dataclasses
import gc
import json
import logging
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from detseg.data.annotations import cache as annotation_cache
from detseg.data.annotations.cache import cached
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.formats.coco.reader import read_coco
from detseg.data.formats.format_detection import detect_source
from detseg.data.formats.lvis import read_lvis
from detseg.data.modules.detection import COCO
from tests.data import made

IMAGES = [{"id": number, "file_name": f"{number}.png", "height": 48, "width": 64} for number in range(6)]
TRIANGLE = [[10, 10, 40, 10, 40, 40]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "detseg" / "annotations"


def write(folder: Path, x: float = 3) -> Path:
    """The first object has no area, and goes with a warning."""
    objects = [
        {"id": 9, "image_id": 0, "category_id": 1, "bbox": [1, 1, 0, 5], "segmentation": TRIANGLE},
        *(
            {"id": i, "image_id": i % 5, "category_id": 1, "bbox": [x, 4, 20, 20], "segmentation": TRIANGLE}
            for i in range(8)
        ),
    ]
    return made.coco(folder / "a.json", IMAGES, objects, {1: "cat"})


def through(file: Path, masks: str = "all") -> tuple[DetectionAnnotations, bool]:
    """The annotations of a file through its cache, and whether they were read."""
    reads = []

    def read() -> tuple[DetectionAnnotations, bool]:
        reads.append(1)
        return read_coco(file, file.parent, masks), True  # type: ignore[arg-type]

    return cached(file, [masks], read, min_bytes=1), bool(reads)


def same(one: object, other: object) -> None:
    for field in dataclasses.fields(one):  # type: ignore[arg-type]
        left, right = getattr(one, field.name), getattr(other, field.name)
        if dataclasses.is_dataclass(left):
            same(left, right)
        elif isinstance(left, np.ndarray):
            assert left.dtype == right.dtype
            assert left.shape == right.shape
            assert left.tobytes() == right.tobytes()
        else:
            assert left == right
            assert type(left) is type(right) or isinstance(left, Path)


@pytest.mark.parametrize("masks", ["all", "none"])
def test_a_cache_gives_what_was_read(tmp_path: Path, caplog: pytest.LogCaptureFixture, masks: str) -> None:
    file = write(tmp_path)
    expected = read_coco(file, tmp_path, masks)  # type: ignore[arg-type]
    for again in (False, True):
        caplog.clear()
        found, read = through(file, masks)
        assert read is not again
        same(found, expected)
        said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(said) == 2
        assert "3 objects that are listed more than once" in said[0]
        assert "1 boxes without area (box-area)" in said[1]


def test_texts_as_image_ids_and_nothing_at_all(tmp_path: Path) -> None:
    images = [{"id": "é1", "file_name": "a.png", "height": 48, "width": 64}]
    for name, objects in (("text", [{"id": 1, "image_id": "é1", "category_id": 1, "bbox": [1, 1, 5, 5]}]), ("no", [])):
        file = made.coco(tmp_path / f"{name}.json", images if objects else [], objects, {1: "cat"})
        same(through(file, "none")[0], through(file, "none")[0])
        assert not through(file, "none")[1]


@pytest.mark.parametrize("change", ["content", "time", "masks", "version"])
def test_what_changed_is_read_again(tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    file = write(tmp_path)
    through(file)
    about = file.stat()
    if change == "content":
        write(tmp_path, x=12.25)
        os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    elif change == "time":
        os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns + 1))
    elif change == "version":
        monkeypatch.setattr(annotation_cache, "VERSION", 99)
    masks = "none" if change == "masks" else "all"
    found, read = through(file, masks)
    assert read
    assert found.boxes[0, 0] == (12.25 if change == "content" else 3)
    assert (found.masks is None) == (change == "masks")
    assert not through(file, masks)[1]
    assert len(list(home.iterdir())) == (2 if change == "masks" else 1)  # old ones are replaced, and no rest lies there


@pytest.mark.parametrize("left", [0, 1, 70, 0.3, 0.9])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, left: float, home: Path) -> None:
    file = write(tmp_path)
    expected, _ = through(file)
    (cache,) = home.iterdir()
    content = cache.read_bytes()
    cache.unlink()  # the old one is still mapped
    cache.write_bytes(content[: int(left if left >= 1 else left * len(content))])
    found, read = through(file)
    assert read
    same(found, expected)
    assert cache.read_bytes() == content


def test_a_cache_of_objects_to_unpickle_is_none(tmp_path: Path, home: Path) -> None:
    file = write(tmp_path)
    through(file)
    (cache,) = home.iterdir()
    cache.unlink()
    np.save(cache, np.array([{"state": 1}], dtype=object), allow_pickle=True)
    cache.with_suffix(".arrays.npy").rename(cache)
    assert through(file)[1]


def test_that_it_cannot_be_written_is_said_and_no_error(
    tmp_path: Path, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home.parent.parent.write_text("a file where the folder would be")
    found, read = through(write(tmp_path))
    assert read
    assert len(found.labels) == 8
    assert f"cannot be kept in {home}" in caplog.text


def test_small_files_and_missing_ones_have_none(tmp_path: Path, home: Path) -> None:
    write(tmp_path)
    made.image(tmp_path / "0.png")
    COCO(str(tmp_path), split={"train": "a.json", "val": "a.json"}, masks="all").annotations("train")
    with pytest.raises(FileNotFoundError):
        cached(tmp_path / "missing.json", [], lambda: json.loads((tmp_path / "missing.json").read_text()))
    assert not home.exists()


def large(folder: Path, **size: int) -> Path:
    """A file of one image, 0.png, that is large enough for a cache."""
    objects = [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [4, 4, 20, 20]}]
    file = made.coco(folder / "a.json", [{"id": 0, "file_name": "0.png", **size}], objects, {1: "cat"})
    file.write_text(file.read_text() + " " * annotation_cache.MIN_BYTES)
    return file


@pytest.mark.parametrize("first", [".", "one"])
def test_images_that_were_moved_are_found(tmp_path: Path, first: str) -> None:
    file = large(tmp_path, height=48, width=64)
    image = made.image(tmp_path / first / "0.png")
    assert read_coco(file, tmp_path).path(0).is_file()
    (tmp_path / "two").mkdir()
    image.rename(tmp_path / "two" / "0.png")
    assert read_coco(file, tmp_path).files.tolist() == ["two/0.png"]


def test_sizes_that_only_the_images_tell_are_read_again(tmp_path: Path) -> None:
    file = large(tmp_path)
    for height, width in ((48, 64), (30, 40)):
        made.image(tmp_path / "0.png", height, width)
        assert read_coco(file, tmp_path).sizes.tolist() == [[height, width]]


def test_a_file_is_kept_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []
    save = annotation_cache.save
    monkeypatch.setattr(annotation_cache, "save", lambda *given: (saved.append(given[0]), save(*given)))
    made.image(tmp_path / "0.png")
    file = large(tmp_path, height=48, width=64)
    detect_source(tmp_path).read("all")
    assert len(saved) == 1
    assert len(read_lvis(tmp_path, file, "any")) == 1
    assert len(saved) == 2


def _private(queue: multiprocessing.Queue[int], found: DetectionAnnotations) -> None:
    def private() -> int:
        """KiB that are of this process alone; those of a file on a tmpfs are dirty as well, but not anonymous."""
        total = dirty = 0
        with open("/proc/self/smaps") as mappings:
            for line in mappings:
                name, _, size = line.partition(":")
                if name == "Private_Dirty":
                    dirty = int(size.split()[0])
                elif name == "Anonymous":
                    total += min(dirty, int(size.split()[0]))
        return total

    gc.disable()  # it writes to the objects of the process that this one is a copy of
    before = private()
    assert found.masks is not None
    total = 0
    for row in range(len(found)):
        objects = found.objects(row)
        start, end = found.masks.byte_ranges[objects.start].tolist()
        total += int(found.boxes[objects].sum()) + int(found.masks.data[start:end].sum())
    queue.put(private() - before)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no smaps")
def test_workers_share_the_memory(tmp_path: Path) -> None:
    """16 MiB of masks, all looked at by a process of its own, which must not have a copy of them."""
    images = [{"id": i, "file_name": f"{i}.png", "height": 480, "width": 640} for i in range(50)]
    angles = np.linspace(0, 6.28, 20_000)
    corners = (300 + 100 * np.stack([np.cos(angles), np.sin(angles)], axis=1)).ravel().tolist()
    objects = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [9, 9, 90, 90], "area": 9, "segmentation": [corners]}
        for i in range(50)
    ]
    file = made.coco(tmp_path / "a.json", images, objects, {1: "cat"})
    through(file)
    found, read = through(file)
    assert not read
    assert found.masks is not None
    assert found.masks.data.nbytes > 15 << 20
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_private, args=(queue, found))
    process.start()
    assert queue.get(timeout=60) < 3 << 10  # KiB
    process.join()
