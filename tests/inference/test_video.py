"""Videos: frames and their times, drawn videos, results of frames, tracks."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from jsonargparse import Namespace
from numpy.typing import NDArray

from detseg import cli
from detseg.cli._video import names_video, predict_on_video
from detseg.errors import ConfigError, DataError
from detseg.inference import Predictor, SemanticResult
from detseg.inference.video import Frame, VideoWriter, is_video, make_tracker, predict_video, read_frames
from detseg.preprocessing import ResizeConfig
from tests.colours import COLOURS, ColourDetector

pytest.importorskip("av")

TIMES = [0.0, 0.04, 0.1, 0.14, 0.3, 0.34]  # seconds, at no constant rate


def frame(number: int) -> NDArray[np.uint8]:
    """A red square that moves to the right, and a blue one that stands still."""
    image = np.zeros((64, 97, 3), np.uint8)  # an odd width
    image[8:28, 6 * number + 4 : 6 * number + 24] = COLOURS["red"]
    image[40:56, 60:80] = COLOURS["blue"]
    return image


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "squares.mp4"
    with VideoWriter(path) as writer:
        for number, seconds in enumerate(TIMES):
            writer.write(frame(number), seconds)
    return path


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    model = ColourDetector().eval()
    model.class_names, model.preprocessing = tuple(COLOURS), ResizeConfig(64, 98)
    return Predictor(model)


def test_frames_come_with_their_numbers_and_times(video: Path) -> None:
    frames = list(read_frames(str(video)))
    assert [one.number for one in frames] == [*range(6)]
    assert [one.seconds for one in frames] == pytest.approx(TIMES, abs=1e-3)
    for one in frames:
        assert one.pixels.shape == (64, 98, 3)
        assert np.abs(one.pixels[:, :97].astype(int) - frame(one.number)).mean() < 8  # compressed
    assert [one.number for one in read_frames(str(video), every=4)] == [0, 4]


def test_each_frame_has_its_result(video: Path, predictor: Predictor) -> None:
    for batch_size in (1, 4):
        results = list(predict_video(predictor, str(video), batch_size=batch_size, threshold=0))
        assert [one.number for one, _ in results] == [*range(6)]
        for one, result in results:
            left = result.boxes[result.labels == 0][0, 0]
            assert left == pytest.approx(6 * one.number + 4, abs=1)


def test_tracks_keep_their_ids(video: Path, predictor: Predictor) -> None:
    pytest.importorskip("trackers")
    track = make_tracker()
    ids: list[dict[int, int]] = []
    for one, result in predict_video(predictor, str(video), threshold=0):
        certain = replace(result, scores=np.full(len(result), 0.9, np.float32))
        tracked = track(certain, one.seconds)
        assert tracked.boxes is result.boxes
        assert tracked.track_ids is not None
        ids.append(dict(zip(tracked.labels.tolist(), tracked.track_ids.tolist(), strict=True)))
    assert ids[-1][0] != ids[-1][2]
    assert min(ids[-1].values()) >= 0
    assert ids[-1] == ids[-2]


def test_a_track_has_a_name_and_a_colour(video: Path, predictor: Predictor) -> None:
    (result,) = predictor([frame(0)], threshold=0)
    tracked = replace(result, track_ids=np.array([-1, 12]))
    assert tracked.to_json()["track_ids"] == [None, 12]
    assert "track_ids" not in result.to_json()
    assert not np.array_equal(np.asarray(tracked.plot()), np.asarray(result.plot()))


@pytest.mark.parametrize("suffix", [".mkv", ".avi"])
def test_a_video_that_is_cut_off_is_named(suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    generator = np.random.default_rng(0)
    path = tmp_path / f"whole{suffix}"
    with VideoWriter(path) as writer:
        for number in range(30):
            writer.write(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8), number / 5)
    assert len([*read_frames(str(path))]) == 30
    assert not caplog.records
    cut = path.with_name(f"cut{suffix}")
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    frames = [*read_frames(str(cut))]
    assert 3 < len(frames) < 25
    assert f"ends after {len(frames)} frames and {frames[-1].seconds:.1f} of " in caplog.text


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"broken.mp4: cannot read this video"):
        next(read_frames(str(tmp_path / "broken.mp4")))
    with pytest.raises(DataError, match=r"camera:99: cannot read this video: .*; connect the camera"):
        next(read_frames("camera:99"))
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"empty\.mp4: an empty file"):
        next(read_frames(str(tmp_path / "empty.mp4")))
    with pytest.raises(DataError, match=r"none\.mp4: no such video"):
        next(read_frames(str(tmp_path / "none.mp4")))
    assert is_video("a/b.MP4")
    assert is_video("camera:0")
    assert not is_video("a/b.png")


def test_predict_writes_lines_and_a_drawn_video(
    video: Path, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detseg.cli.predict._predictor", lambda *_: predictor)
    out = tmp_path / "out"
    command = ["predict", str(video), "--out", str(out), "--checkpoint", "any.ckpt", "--every", "2"]
    command += ["--threshold", "0.1"]
    cli.main(command)
    entries: list[dict[str, Any]] = [json.loads(text) for text in (out / "predictions.jsonl").read_text().splitlines()]
    assert [entry["frame"] for entry in entries] == [0, 2, 4]
    assert [entry["seconds"] for entry in entries] == pytest.approx(TIMES[::2], abs=1e-3)
    assert all(entry["file"] == str(video) and {"red", "blue"} == set(entry["classes"]) for entry in entries)
    drawn = list(read_frames(str(out / "drawn.mp4")))
    assert [one.seconds for one in drawn] == pytest.approx(TIMES[::2], abs=1e-3)
    with pytest.raises(SystemExit):
        cli.main([*command, "--shard", "1/2"])
    unfinished = out / "predictions.jsonl.part0"  # of images
    unfinished.write_text('{"file": "a.png"}\n')
    with pytest.raises(SystemExit):
        cli.main(command)
    assert unfinished.exists()


@pytest.mark.parametrize("broken", [True, False])
def test_a_video_without_a_frame_leaves_earlier_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    if not broken:
        monkeypatch.setattr("detseg.inference.video.read_frames", lambda *_: iter(()))
    (tmp_path / "predictions.jsonl").write_text("earlier")
    options = Namespace(images=["a.mp4"], out=tmp_path, every=1, threshold=0.5, draw="all", track=False)
    with pytest.raises(DataError, match=r"a\.mp4: no such video" if broken else r"a\.mp4: has no frame"):
        predict_on_video(Labels(), options, 1)  # type: ignore[arg-type]
    (file,) = tmp_path.iterdir()
    assert file.read_text() == "earlier"


def test_frames_are_turned_as_players_show_them(tmp_path: Path) -> None:
    path = tmp_path / "turned.mp4"
    image = np.zeros((64, 96, 3), np.uint8)
    image[:16, :24] = 255
    with VideoWriter(path) as writer:
        writer.write(image, 0)
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44  # ISO/IEC 14496-12, section 8.3.2: rows of 16.16 and 2.30 bits
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 64 << 16, 0, 1 << 30)
    path.write_bytes(content)
    (one,) = read_frames(str(path))  # by a quarter, clockwise
    assert np.abs(one.pixels.astype(int) - np.rot90(image, -1)).mean() < 8


class Labels:
    """A segmenter that finds one more class in each frame."""

    def stream(self, images: Iterable[Any], *_: Any) -> Iterator[SemanticResult]:
        names = tuple(f"a class with a long name {label}" for label in range(8))
        for number, image in enumerate(images):
            labels = (np.arange(image[..., 0].size) % (number + 1)).reshape(image.shape[:2]).astype(np.uint8)
            yield SemanticResult(image_size=labels.shape, class_names=names, pixels=image, labels=labels)


def test_segmented_frames_have_one_size_whatever_their_legend(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heights = []
    monkeypatch.setattr(VideoWriter, "write", lambda _, pixels, __: heights.append(len(pixels)))
    options = Namespace(images=[str(video)], out=tmp_path, every=1, threshold=0.5, draw="all", track=False)
    predict_on_video(Labels(), options, 1)  # type: ignore[arg-type]
    assert heights == [64] * 6


@pytest.mark.parametrize("source", ["camera:0", "a.mp4"])
def test_a_camera_is_complete_when_it_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    def frames(*_: Any) -> Iterator[Frame]:
        yield from (Frame(number, number / 25, frame(number)) for number in range(3))
        raise KeyboardInterrupt

    monkeypatch.setattr("detseg.inference.video.read_frames", frames)
    options = Namespace(images=[source], out=tmp_path, every=1, threshold=0.5, draw="none", track=False)
    with nullcontext() if source == "camera:0" else pytest.raises(KeyboardInterrupt):
        predict_on_video(Labels(), options, 1)  # type: ignore[arg-type]
    (file,) = tmp_path.glob("*.jsonl*")
    assert file.name == ("predictions.jsonl" if source == "camera:0" else "frames.jsonl.part0")
    assert len(file.read_text().splitlines()) == 3


def test_a_video_stands_alone(video: Path) -> None:
    with pytest.raises(ConfigError, match="must be the only one"):
        names_video(Namespace(images=[str(video), "a.png"]))
    with pytest.raises(ConfigError, match="--every is for a video"):
        names_video(Namespace(images=["a.png"], every=2, track=False))
    with pytest.raises(ConfigError, match="--track numbers objects"):
        predict_on_video(SimpleNamespace(model=None), Namespace(images=[str(video)], track=True), 1)  # type: ignore[arg-type]
