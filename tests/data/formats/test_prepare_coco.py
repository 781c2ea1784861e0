from __future__ import annotations

import functools
import hashlib
import http.server
import importlib.util
import io
import shutil
import threading
import time
import types
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from detseg.data import COCO
from tests.data import made

DATASETS = Path(__file__).parents[3] / "datasets"
FOLDERS = {"annotations": "annotations", "train": "train2017", "val": "val2017"}
COUNTS = {"train": 4, "val": 2}


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A script of the folder datasets, as Python runs it: what lies beside it can be imported."""
    monkeypatch.syspath_prepend(DATASETS)
    spec = importlib.util.spec_from_file_location(name, DATASETS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Handler(http.server.SimpleHTTPRequestHandler):
    """A file server that knows ranges, and can be told to break off, to fail, or to answer in chunks."""

    protocol_version = "HTTP/1.1"

    breaks: list[int] = []
    failures: list[int] = []
    ranges = True
    chunks = False
    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(f"{self.path} {self.headers.get('Range', '')}".strip())
        if self.failures:
            self.send_error(self.failures.pop(0))
            return
        file = Path(self.translate_path(self.path))
        if not file.is_file():
            self.send_error(404)
            return
        content = file.read_bytes()
        first = int(self.headers["Range"][6:-1]) if self.ranges and "Range" in self.headers else 0
        if first >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if first else 200)
        sent = content[first : first + self.breaks.pop(0)] if self.breaks else content[first:]
        whole = first + len(sent) == len(content)
        self.close_connection = True
        if self.chunks:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(sent), sent) + (b"0\r\n\r\n" if whole else b""))
            return
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    return load("prepare_coco", monkeypatch)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a server of the files in a folder."""
    Handler.asked.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()
    Handler.breaks, Handler.failures, Handler.ranges, Handler.chunks = [], [], True, False


@pytest.fixture
def mirror(tmp_path: Path, script: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server of small archives laid out as those of COCO."""
    whole, served = tmp_path / "whole", tmp_path / "served"
    for split, count in COUNTS.items():
        made.simple_coco(whole / "annotations" / f"instances_{split}2017.json", whole / f"{split}2017", count)
    for name, known in script.ARCHIVES.items():
        folder = FOLDERS[name]
        (served / known.address).parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(served / known.address, "w") as archive:
            for file in sorted((whole / folder).iterdir()):
                archive.write(file, f"{folder}/{file.name}")
        lacks = script.files(folder, COUNTS.get(name, 2))
        sum_of = "md5:" + hashlib.md5((served / known.address).read_bytes()).hexdigest()
        size = (served / known.address).stat().st_size
        monkeypatch.setitem(script.ARCHIVES, name, known._replace(lacks=lacks, size=size, checksum=sum_of))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with serving(served) as address:
        yield address


def run(script: types.ModuleType, root: Path, mirror: str, *more: str) -> int:
    return int(script.main(["--root", str(root), "--source", mirror, *more]))


def test_what_it_lays_out_can_be_read(script: types.ModuleType, mirror: str, tmp_path: Path) -> None:
    root = tmp_path / "coco"
    assert run(script, root, mirror) == 0
    assert sorted(path.name for path in root.iterdir()) == ["annotations", "train2017", "val2017"]
    data = COCO(str(root))
    assert (len(data.train_annotations), len(data.val_annotations)) == (4, 2)
    asked = len(Handler.asked)
    assert run(script, root, mirror) == 0
    assert len(Handler.asked) == asked  # everything was there


def test_only_what_is_asked_for(script: types.ModuleType, mirror: str, tmp_path: Path) -> None:
    assert run(script, tmp_path / "coco", mirror, "--splits", "val", "--keep") == 0
    names = ["annotations", "annotations_trainval2017.zip", "val2017", "val2017.zip"]
    assert sorted(path.name for path in (tmp_path / "coco").iterdir()) == names


@pytest.mark.parametrize("ranges", [True, False])
def test_it_goes_on_where_it_was_interrupted(
    script: types.ModuleType, mirror: str, tmp_path: Path, ranges: bool
) -> None:
    Handler.breaks, Handler.ranges = [100, 50], ranges
    assert run(script, tmp_path / "coco", mirror, "--splits", "val") == 0
    first = [line.partition(" ")[2] for line in Handler.asked if "annotations" in line]
    assert first == (["", "bytes=100-", "bytes=150-"] if ranges else ["", "bytes=100-", "bytes=50-"])
    assert len(COCO(str(tmp_path / "coco"), split={"train": "annotations/instances_val2017.json"}).val_annotations) == 2


def test_a_download_that_is_whole_is_not_begun_again(script: types.ModuleType, mirror: str, tmp_path: Path) -> None:
    archive = tmp_path / "served" / "zips" / "val2017.zip"
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "val2017.zip.part").write_bytes(archive.read_bytes())
    assert run(script, tmp_path / "coco", mirror, "--splits", "val") == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "val2017.zip.part").write_bytes(archive.read_bytes() + b"of another file")
    assert run(script, tmp_path / "other", mirror, "--splits", "val") == 0


def test_an_answer_in_chunks_has_no_length(script: types.ModuleType, mirror: str, tmp_path: Path) -> None:
    Handler.chunks, Handler.breaks = True, [100]
    assert run(script, tmp_path / "coco", mirror, "--splits", "val") == 0
    assert sorted(path.name for path in (tmp_path / "coco").iterdir()) == ["annotations", "val2017"]
    assert len([line for line in Handler.asked if "annotations" in line]) == 2  # the first ended without its last chunk


@pytest.mark.parametrize(
    "address", ["mirror.example", "localhost:8000", "http://mirror.example:port", "http://[", "http://mirror.example/ä"]
)
def test_what_is_no_address_is_said_at_once(
    script: types.ModuleType,
    tmp_path: Path,
    address: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=10**12))  # COCO itself is asked for
    assert run(script, tmp_path / "coco", address) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {address}/annotations/annotations_trainval2017.zip: is no address")
    assert ("https://" in said) == ("://" not in address)


def test_a_busy_server_is_asked_again(script: types.ModuleType, mirror: str, tmp_path: Path) -> None:
    Handler.failures = [503, 500]
    assert run(script, tmp_path / "coco", mirror, "--splits", "val") == 0


def test_what_cannot_be_had_is_said(
    script: types.ModuleType, mirror: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(script, tmp_path / "coco", f"{mirror}/nowhere") == 2
    assert "annotations_trainval2017.zip: 404" in capsys.readouterr().err
    assert run(script, tmp_path / "coco", "http://127.0.0.1:9") == 2
    assert "cannot be reached" in capsys.readouterr().err


def test_a_full_disk_is_noticed_before(
    script: types.ModuleType,
    mirror: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    usage = types.SimpleNamespace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert run(script, tmp_path / "coco", mirror) == 2
    size = 2 * sum(archive.size for archive in script.ARCHIVES.values())
    said = capsys.readouterr().err
    assert f"needs {size / 1000:.1f} kB, but only 10 bytes are free; make room for {(size - 10) / 1000:.1f} kB" in said
    assert not list((tmp_path / "coco").iterdir())


@pytest.mark.parametrize("ending", ["", ".part"])
def test_going_on_needs_no_room_for_what_is_there(
    script: types.ModuleType, mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    root = tmp_path / "coco"
    root.mkdir()
    names = [script.ARCHIVES[name].name for name in ("annotations", "val")]
    for name in names:
        shutil.copy(next((tmp_path / "served").rglob(name)), root / (name + ending))
    for member in zipfile.ZipFile(tmp_path / "served" / "zips" / "val2017.zip").namelist():
        (root / member).parent.mkdir(exist_ok=True)
        shutil.copy(tmp_path / "whole" / member, root / member)
    (root / "val2017.zip.unpacking").touch()  # all files are there, but it was interrupted before it knew
    size = script.ARCHIVES["annotations"].size
    need = max(size, sum(file.stat().st_size for file in (tmp_path / "whole" / "annotations").iterdir()))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=need))
    assert run(script, root, mirror, "--splits", "val") == 0
    assert sorted(path.name for path in root.iterdir()) == ["annotations", "val2017"]


def replace_archive(script: types.ModuleType, tmp_path: Path, content: bytes) -> None:
    """Serve another archive of the annotations, with the checksum that is expected of it."""
    (tmp_path / "served" / "annotations" / "annotations_trainval2017.zip").write_bytes(content)
    known = {"size": len(content), "checksum": "md5:" + hashlib.md5(content).hexdigest()}
    script.ARCHIVES["annotations"] = script.ARCHIVES["annotations"]._replace(**known)


def zipped(name: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, "x" * 2000)
    return stream.getvalue()


@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt", "annotations/../../outside.txt", "..\\outside.txt"])
def test_no_member_leaves_the_folder(
    script: types.ModuleType, mirror: str, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_archive(script, tmp_path, zipped(name))
    assert run(script, tmp_path / "coco", mirror) == 2
    assert "would leave" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "coco").iterdir()] == ["annotations_trainval2017.zip"]
    assert not (tmp_path / "outside.txt").exists()


@pytest.mark.parametrize("damage", ["short", "changed", "no archive"])
def test_a_damaged_archive_is_named(
    script: types.ModuleType, mirror: str, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = zipped("annotations/a.json")
    changed = whole[:500] + b"?" + whole[501:]
    replace_archive(script, tmp_path, {"short": whole[:1000], "changed": changed, "no archive": b"sorry"}[damage])
    assert run(script, tmp_path / "coco", mirror) == 2
    assert "annotations_trainval2017.zip: damaged" in capsys.readouterr().err


def test_too_few_files_are_noticed(
    script: types.ModuleType, mirror: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_archive(script, tmp_path, zipped("annotations/a.json"))
    assert run(script, tmp_path / "coco", mirror) == 2
    assert "does not hold 2 files" in capsys.readouterr().err
