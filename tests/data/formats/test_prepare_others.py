"""Archives of all kinds are checked and unpacked inside their folder; what the other scripts lay out can be read."""

from __future__ import annotations

import hashlib
import io
import tarfile
import types
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from detseg.data import VOC, DetectionDataModule, SegmentationDataModule
from tests.data import made
from tests.data.formats.test_prepare_coco import Handler, load, serving

Names = dict[str, bytes]


def tar(file: Path, names: Names, *more: tarfile.TarInfo, mode: str = "w") -> Path:
    with tarfile.open(file, mode) as archive:  # type: ignore[call-overload]
        for name, content in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in more:
            archive.addfile(member)
    return file


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    return load("downloads", monkeypatch)


@pytest.mark.parametrize(
    "member",
    [
        link("a/link", "/etc/passwd", tarfile.SYMTYPE),
        link("a/link", "../../outside", tarfile.SYMTYPE),
        link("a/hard", "../outside", tarfile.LNKTYPE),
        link("a/device", "", tarfile.CHRTYPE),
        link("a/pipe", "", tarfile.FIFOTYPE),
        tarfile.TarInfo("../outside"),
        tarfile.TarInfo("/outside"),
        tarfile.TarInfo("a/../../outside"),
    ],
    ids=["absolute link", "link", "hard link", "device", "pipe", "above", "root", "above through a folder"],
)
def test_no_member_of_a_tar_leaves_the_folder(
    downloads: types.ModuleType, tmp_path: Path, member: tarfile.TarInfo
) -> None:
    (tmp_path / "in").mkdir()
    archive = tar(tmp_path / "x.tar", {"a/b.txt": b"b"}, member)
    with pytest.raises(downloads.Stop, match=r"would leave|is a link or a device"):
        downloads.unpack(archive, tmp_path / "in")
    assert not list((tmp_path / "in").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "x.tar"]


def test_no_link_in_a_zip(downloads: types.ModuleType, tmp_path: Path) -> None:
    member = zipfile.ZipInfo("a/link")
    member.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(downloads.Stop, match="'a/link' is a link or a device"):
        downloads.unpack(tmp_path / "x.zip", tmp_path)


def test_tar_archives_are_unpacked(downloads: types.ModuleType, tmp_path: Path) -> None:
    folder = tarfile.TarInfo("a")
    folder.type = tarfile.DIRTYPE
    for name, mode in (("x.tar", "w"), ("x.tgz", "w:gz")):
        (tmp_path / name[2:]).mkdir()
        downloads.unpack(tar(tmp_path / name, {"a/b.txt": b"text"}, folder, mode=mode), tmp_path / name[2:])
        assert (tmp_path / name[2:] / "a" / "b.txt").read_bytes() == b"text"
    whole = tar(tmp_path / "x.tgz", {"a/b.txt": bytes(range(256)) * 99}, mode="w:gz").read_bytes()
    for content in (whole[: len(whole) // 2], b"no archive", whole[:40] + b"?" * 40 + whole[80:]):
        (tmp_path / "x.tgz").write_bytes(content)
        with pytest.raises(downloads.Stop, match=r"x\.tgz: damaged"):
            downloads.unpack(tmp_path / "x.tgz", tmp_path)


def test_size_and_checksum(downloads: types.ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.zip"
    file.write_bytes(b"abc")
    downloads.check(file, 3, "md5:900150983cd24fb0d6963f7d28e17f72")  # RFC 1321
    downloads.check(file, None, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")  # FIPS 180
    with pytest.raises(downloads.Stop, match=r"x\.zip: has 3 bytes, not 4; remove it"):
        downloads.check(file, 4, "")
    with pytest.raises(downloads.Stop, match=r"its md5 is 900150983cd24fb0d6963f7d28e17f72, not 1"):
        downloads.check(file, 3, "md5:1")
    capsys.readouterr()
    downloads.check(file, 3, "")
    assert "no checksum of it is published; its size is right" in capsys.readouterr().out


def test_a_wrong_download_is_not_unpacked(
    downloads: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "served").mkdir()
    tar(tmp_path / "served" / "x.tar", {"a.txt": b"a"})
    with serving(tmp_path / "served") as address:
        archive = downloads.Archive(f"{address}/x.tar", lambda _: "all", checksum="sha256:0")
        with pytest.raises(downloads.Stop, match=r"x\.tar: its sha256 is"):
            downloads.prepare(tmp_path / "out", [archive], False)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x.tar"]


@pytest.mark.parametrize("kind", [tarfile.TarFile, zipfile.ZipFile])
def test_what_is_half_unpacked_is_unpacked_again(
    downloads: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type
) -> None:
    archive = downloads.Archive("https://example.org/x", downloads.files("first", 1))
    if kind is zipfile.ZipFile:
        with zipfile.ZipFile(tmp_path / "x", "w") as content:
            for name in ("first/a.txt", "last/b.txt"):
                content.writestr(name, name)
    else:
        tar(tmp_path / "x", {name: name.encode() for name in ("first/a.txt", "last/b.txt")})

    def interrupted(self: tarfile.TarFile | zipfile.ZipFile, path: Path) -> None:
        self.extract("first/a.txt", path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kind, "extractall", interrupted)
        with pytest.raises(KeyboardInterrupt):
            downloads.prepare(tmp_path, [archive], False)
    assert (tmp_path / "first" / "a.txt").is_file()
    assert not (tmp_path / "last").exists()
    downloads.prepare(tmp_path, [archive], False)
    assert (tmp_path / "last" / "b.txt").read_text() == "last/b.txt"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "last"]


def voc_tar(folder: Path, name: str, year: str, lists: dict[str, str]) -> Path:
    """An archive of VOC with the images of these lists, a letter each."""
    names: Names = {}
    for number, (split, stems) in enumerate(lists.items()):
        names[f"VOCdevkit/VOC{year}/ImageSets/Main/{split}.txt"] = "\n".join(stems).encode()
        for stem in stems:
            body = f"<annotation>{made.box('cat', 1, 1, 9, 9)}</annotation>"
            names[f"VOCdevkit/VOC{year}/Annotations/{stem}.xml"] = body.encode()
            image = np.full((48, 64, 3), ord(stem) + number, dtype=np.uint8)
            names[f"VOCdevkit/VOC{year}/JPEGImages/{stem}.jpg"] = cv2.imencode(".jpg", image)[1].tobytes()
    return tar(folder / name, names)


def test_voc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script = load("prepare_voc", monkeypatch)
    served, root = tmp_path / "served", tmp_path / "datasets"
    served.mkdir()
    voc_tar(served, "VOCtrainval_06-Nov-2007.tar", "2007", {"train": "a", "val": "b", "trainval": "ab"})
    voc_tar(served, "VOCtest_06-Nov-2007.tar", "2007", {"test": "cd"})
    voc_tar(served, "VOCtrainval_11-May-2012.tar", "2012", {"train": "e", "val": "f", "trainval": "ef"})
    tar(served / "benchmark.tgz", {"benchmark_RELEASE/dataset/cls/a.mat": b"x"}, mode="w:gz")
    for name, archives in script.ARCHIVES.items():
        for position, archive in enumerate(archives):
            file = served / archive.name
            known = {"size": file.stat().st_size, "checksum": "md5:" + hashlib.md5(file.read_bytes()).hexdigest()}
            archives[position] = archive._replace(**known)
        monkeypatch.setitem(script.ARCHIVES, name, archives)
    script.ARCHIVES["sbd"][0] = script.ARCHIVES["sbd"][0]._replace(
        lacks=script.files("benchmark_RELEASE/dataset/cls", 1)
    )
    Handler.breaks = [1000, 2000]
    with serving(served) as address:
        assert script.main(["--root", str(root), "--sbd", "--source", address]) == 0
        assert "/VOCtrainval_06-Nov-2007.tar bytes=3000-" in Handler.asked
        asked = len(Handler.asked)
        assert script.main(["--root", str(root), "--sbd", "--source", address]) == 0
        assert len(Handler.asked) == asked
    assert sorted(path.name for path in root.iterdir()) == ["VOCdevkit", "benchmark_RELEASE"]
    data = VOC(str(root / "VOCdevkit" / "VOC2007"), split={"train": "trainval", "val": "test"})
    assert data.train_annotations.image_ids.tolist() == ["a", "b"]
    assert data.val_annotations.image_ids.tolist() == ["c", "d"]


def test_penn_fudan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script = load("prepare_penn_fudan", monkeypatch)
    (tmp_path / "served").mkdir()
    masks = np.zeros((2, 48, 64), dtype=np.uint8)
    masks[0, 5:20, 10:30], masks[0, 10:40, 40:50] = 1, 2
    masks[1, 0:9, 0:4] = 1
    with zipfile.ZipFile(tmp_path / "served" / "PennFudanPed.zip", "w") as archive:
        for number, mask in enumerate(masks):
            image = np.full((48, 64, 3), number, dtype=np.uint8)
            archive.writestr(f"PennFudanPed/PNGImages/P{number}.png", cv2.imencode(".png", image)[1].tobytes())
            archive.writestr(f"PennFudanPed/PedMasks/P{number}_mask.png", cv2.imencode(".png", mask)[1].tobytes())
    known = script.ARCHIVES[0]
    assert (known.size, known.checksum) == (53723336, "")
    lacks = script.files("PennFudanPed/PedMasks", 2)
    monkeypatch.setattr(script, "ARCHIVES", [known._replace(size=None, lacks=lacks)])
    write_text = Path.write_text

    def interrupt(file: Path, content: str, **settings: str) -> int:
        if file.name != "instances.json":
            return write_text(file, content, **settings)
        write_text(file, content[:9])
        raise KeyboardInterrupt

    with serving(tmp_path / "served") as address:
        arguments = ["--root", str(tmp_path / "out"), "--source", address]
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", interrupt)
            assert [script.main(arguments) for _ in range(2)] == [130, 130]
        assert not (tmp_path / "out" / "coco").exists()
        for _ in range(2):
            assert script.main(arguments) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"PennFudanPed", "coco"}
    data = DetectionDataModule(str(tmp_path / "out" / "coco"), split={"val_fraction": 0.5}, masks="all")
    for found in (data.train_annotations, data.val_annotations):
        assert found.classes == ("pedestrian",)
        number = int(str(found.files[0])[1])
        assert found.boxes.tolist() == [[[10, 5, 30, 20], [40, 10, 50, 40]], [[0, 0, 4, 9]]][number]
        assert found.masks is not None
        for position, mask in enumerate(found.masks.draw(np.arange(len(found.boxes)), 48, 64), start=1):
            assert np.array_equal(mask, masks[number] == position)
    (tmp_path / "out" / "coco" / "annotations" / "instances.json").unlink()
    with serving(tmp_path / "served") as address:
        assert script.main(["--root", str(tmp_path / "out"), "--source", address]) == 2
    assert "coco: is there, but not as this script leaves it; remove it" in capsys.readouterr().err


def test_cityscapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script = load("prepare_cityscapes", monkeypatch)
    arguments = ["--root", str(tmp_path / "out"), "--archives", str(tmp_path)]
    with pytest.raises(SystemExit):
        script.main([*arguments, "--keep"])  # they are always kept
    assert "unrecognized arguments: --keep" in capsys.readouterr().err
    assert script.main(arguments) == 2
    said = capsys.readouterr().err
    assert "gtFine_trainvaltest.zip: there is no such file" in said
    assert "https://www.cityscapes-dataset.com/register/" in said
    labels = np.full((48, 64), 7, dtype=np.uint8)
    for archive, ending in zip(script.ARCHIVES, ("gtFine_labelIds", "leftImg8bit"), strict=True):
        with zipfile.ZipFile(tmp_path / archive.name, "w") as content:
            for split in ("train", "val"):
                member = f"{ending.split('_')[0]}/{split}/ulm/ulm_000001_000019_{ending}.png"
                content.writestr(member, cv2.imencode(".png", labels)[1].tobytes())
    assert script.main(arguments) == 2
    assert "its sha256 is" in capsys.readouterr().err
    small = [
        archive._replace(
            checksum="sha256:" + hashlib.sha256((tmp_path / archive.name).read_bytes()).hexdigest(),
            lacks=script.files(folder, 2, f"[tv][ra][al]*/*/*_{ending}.png"),
        )
        for archive, folder, ending in zip(
            script.ARCHIVES, ("gtFine", "leftImg8bit"), ("gtFine_labelIds", "leftImg8bit"), strict=True
        )
    ]
    monkeypatch.setattr(script, "ARCHIVES", small)
    assert script.main(arguments) == 0
    assert (tmp_path / "gtFine_trainvaltest.zip").is_file()
    data = SegmentationDataModule(str(tmp_path / "out"))
    assert (len(data.train_annotations), data.num_classes) == (1, 19)
    assert (data.val_annotations.labels(0) == 0).all()
