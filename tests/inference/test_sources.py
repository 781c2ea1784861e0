"""Every source names the same images, and nothing leaves its folder."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detseg.errors import DataError, DetsegError
from detseg.inference.archives import ImageAddress
from detseg.inference.images import open_image
from detseg.inference.sources import find_images, image_file, list_images

FILES = ("a.png", "b.jpg", "inner/c.png")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images and a text, and archives and lists of them beside it; the current folder is around it."""
    monkeypatch.chdir(tmp_path)
    root = Path("photos")
    (root / "inner").mkdir(parents=True)
    for number, name in enumerate(FILES):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 9 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
    (root / "notes.txt").write_text("text")
    with zipfile.ZipFile("photos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (*FILES, "notes.txt"):
            archive.write(root / name, name)
        archive.writestr("__MACOSX/._a.png", b"no image")
    with tarfile.open("photos.tar", "w") as archive:
        archive.add(root, "")
    names = [f"./photos//{name}" for name in FILES]
    Path("list.txt").write_text("\n".join(names) + "\n\n")
    Path("table.csv").write_text("id,file\n" + "".join(f'{number},"{name}"\n' for number, name in enumerate(names)))
    return root


@pytest.mark.parametrize(
    "source", ["photos", "./photos/**/*.[pj]*g", "photos.zip", "photos.tar", "list.txt", "table.csv"]
)
def test_every_source_gives_the_same_images(photos: Path, source: str) -> None:
    names = [*list_images([source], recursive=True)]
    assert len(names) == len(FILES)
    for name in names:
        image = open_image(image_file(name))
        expected = open_image(next(photos / file for file in FILES if file.rpartition("/")[2] == image.path.name))
        assert np.array_equal(image.pixels, expected.pixels)
        assert str(image.path) == name  # by which a run that is continued knows its results
    archive = [name for name in names if "://" in name]
    assert archive == ([f"{source[-3:]}://{file}::{source}" for file in sorted(FILES)] if "s." in source else [])


def test_standard_input_gives_names(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = b"photos/a.png\r\n\nphotos/missing.png\n\xe9.png"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(names)))
    assert [*list_images(["-"])] == ["photos/a.png", "photos/missing.png", os.fsdecode(b"\xe9.png")]
    monkeypatch.setattr(sys, "stdin", None)  # as Python leaves it where it is closed
    with pytest.raises(DataError, match="-: standard input is closed; pipe names"):
        [*list_images(["-"])]


def test_addresses_of_fsspec_are_files_folders_and_patterns(photos: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    for name in FILES:
        system.pipe(f"/bucket/{name}", (photos / name).read_bytes())
    system.pipe("/bucket/notes.txt", b"text")
    assert [*list_images(["memory://bucket"])] == ["memory:///bucket/a.png", "memory:///bucket/b.jpg"]
    assert len([*list_images(["memory://bucket"], recursive=True)]) == 3
    (name,) = list_images(["memory://bucket/inner/*.png"])
    expected = open_image(photos / "inner/c.png").pixels
    assert np.array_equal(open_image(ImageAddress(name)).pixels, expected)
    for source in ("memory://empty/*.png", "nonsense://bucket/a.png"):
        with pytest.raises(DetsegError, match=r"no image there|nonsense"):
            [*list_images([source])]
    with pytest.raises(DataError, match=r"memory://bucket/none\.png: cannot read this image"):
        open_image(ImageAddress("memory://bucket/none.png"))


def test_parquet_gives_a_column(photos: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").table({"image": ["photos/a.png", None]})
    parquet.write_table(table, "table.parquet")
    assert [*list_images(["table.parquet"], column="image")] == ["photos/a.png"]
    with pytest.raises(DataError, match=r"has no column file.*image"):
        [*list_images(["table.parquet"])]
    parquet.write_table(pytest.importorskip("pyarrow").table({"file": [b"content"]}), "table.parquet")
    with pytest.raises(DataError, match=r"table\.parquet: column file holds binary, not names; name another one"):
        [*list_images(["table.parquet"])]


def test_parquet_names_its_package(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    Path("table.parquet").write_bytes(b"")
    with pytest.raises(DetsegError, match=r"pip install 'detseg\[parquet\]'"):
        [*list_images(["table.parquet"])]


@pytest.mark.parametrize("source", ["names.txt", "names.csv", "-"])
def test_a_list_that_is_no_text_in_utf8_is_named(photos: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    content = "file\nphotos/a.png\n".encode("utf-16")  # as PowerShell redirects
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    if source != "-":
        Path(source).write_bytes(content)
    with pytest.raises(DataError, match=f"^{source}: not a text in UTF-8; save it as one"):
        [*list_images([source])]


def write_zip(*names: str) -> str:
    with zipfile.ZipFile("other.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"0" * 2000)
    return "other.zip"


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "a/../../b.png", "C:\\a.png"])
def test_members_that_lead_out_are_refused(photos: Path, name: str) -> None:
    with pytest.raises(DataError, match="leads out of the folder"):
        [*list_images([write_zip(name)])]
    with tarfile.open("other.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(DataError, match="leads out of the folder"):
        [*list_images(["other.tar"])]


def test_a_member_of_too_many_bytes_is_not_unpacked(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (name,) = list_images([write_zip("large.png")])
    with pytest.raises(DataError, match=r"large\.png::other\.zip: not an image"):
        open_image(ImageAddress(name))
    monkeypatch.setenv("DETSEG_MAX_IMAGE_PIXELS", "200")
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(DataError, match="2,000 bytes, more than"):
        open_image(ImageAddress(name))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_member_that_hides_its_size_is_not_unpacked(photos: Path, method: int) -> None:
    with zipfile.ZipFile("bomb.zip", "w", method) as archive:
        archive.writestr("a.png", bytes(20 << 20))
    content = bytearray(Path("bomb.zip").read_bytes())
    for place in (22, content.rindex(b"PK\1\2") + 24):  # of the size, at the member and in the list of members
        content[place : place + 4] = (1000).to_bytes(4, "little")
    Path("bomb.zip").write_bytes(content)
    (name,) = list_images(["bomb.zip"])
    tracemalloc.start()
    with pytest.raises(DataError, match=r"a\.png::bomb\.zip: (cannot read this image|is not compressed by deflate)"):
        open_image(image_file(name))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_an_error_of_a_protocol_is_that_of_its_image(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = pytest.importorskip("fsspec.implementations.memory").MemoryFileSystem

    def refuse(*_: object, **__: object) -> None:
        raise LookupError("403")  # as aiohttp's, no OSError

    for name, method in {"memory://a.png": "_open", "memory://b*.png": "glob"}.items():
        monkeypatch.setattr(system, method, refuse)
        with pytest.raises(DataError, match=r"memory://.*png: cannot (be opened|read this image): 403"):
            open_image(image_file(next(list_images([name]))))


def test_broken_sources_are_named(photos: Path) -> None:
    Path("broken.zip").write_bytes(b"PK no archive")
    Path("photos.tar.gz").write_bytes(b"")
    Path("empty").mkdir()
    Path("empty.txt").write_text("\n")
    Path("long.csv").write_text(f"file\n{'a' * 200_000}\n")
    for source, message in {
        "broken.zip": r"broken\.zip: cannot read this archive",
        "photos.tar.gz": "cannot be read one by one",
        "empty": "no image in this folder",
        "empty.txt": r"empty\.txt: no image there",
        write_zip("notes.txt"): r"other\.zip: no image there",
        "long.csv": r"long\.csv: cannot read this table: field larger",
        "photos/inner/..//none": "no such image",
        "": "an image has an empty name",
    }.items():
        with pytest.raises(DataError, match=message):
            [*list_images([source])]
    with pytest.raises(DataError, match=r"table\.csv: has no column path.*id, file"):
        [*list_images(["table.csv"], column="path")]
    with pytest.raises(DataError, match=r"none\.png::photos\.zip: no such member"):
        open_image(ImageAddress("zip://none.png::photos.zip"))
    with pytest.raises(DataError, match="must be a file on this disk"):
        find_images("photos.zip")
