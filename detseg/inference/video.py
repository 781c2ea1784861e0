"""Predictions on the frames of a video or a camera, through PyAV."""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from detseg.errors import ConfigError, DataError, DetsegError, explain_content
from detseg.inference.images import ImageArray
from detseg.inference.results import DetectionResult, Result

if TYPE_CHECKING:
    from detseg.inference.predictor import Predictor

log = logging.getLogger(__name__)

SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts")
CAMERA = "camera:"  # and its number
CAMERA_FORMATS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}
TIME_BASE = Fraction(1, 1000)  # seconds, of the pictures of a drawn video
MISSING = 1.0  # seconds at the end of a video, from which it seems to be cut off; sound may be a little longer
Track = Callable[[DetectionResult, float], DetectionResult]


class Frame(NamedTuple):
    """A picture of a video."""

    number: int  # from 0, of those that are left out too
    seconds: float  # since the beginning
    pixels: ImageArray


def is_video(source: str) -> bool:
    """Tell a video file or a camera from images."""
    return source.startswith(CAMERA) or source.lower().endswith(SUFFIXES)


def read_frames(source: str, every: int = 1) -> Iterator[Frame]:
    """Decode each ``every``-th frame of a video file, or of a camera as "camera:0", one at a time.

    Logs a warning if the file states a longer video than it holds.

    Raises DetsegError without PyAV, ConfigError for a camera that is not known, DataError for a file without a video.
    """
    av = _import_av()
    options: dict[str, Any] = {}
    if source.startswith(CAMERA):
        if sys.platform not in CAMERA_FORMATS:
            raise ConfigError(f"{source}: cameras are not supported on {sys.platform}; record a file")
        options["format"], address = CAMERA_FORMATS[sys.platform]
        address = address.format(source.removeprefix(CAMERA))
    elif not Path(source).is_file():
        raise DataError(f"{source}: no such video")
    else:
        address = str(Path(source).absolute())  # never a URL
    number = -1
    try:
        with av.open(address, **options) as container:
            if not container.streams.video:
                raise DataError(f"{source}: has no video")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for number, frame in enumerate(container.decode(stream)):
                if number % every == 0:
                    turned = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                    yield Frame(number, float(frame.time or 0), np.ascontiguousarray(turned))
            if number >= 0:
                _warn_if_cut_off(source, container, stream, number + 1, float(frame.time or 0))
    except (av.FFmpegError, OSError) as error:
        after = f" after frame {number}" if number >= 0 else ""
        hint = f"cannot read this video{after}: {error.strerror or error}"
        if source.startswith(CAMERA):
            hint += "; connect the camera, or name another one"
        else:
            hint = explain_content(Path(source)) or f"{hint}; replace the file, or convert it by ffmpeg"
        raise DataError(f"{source}: {hint}") from None


def _warn_if_cut_off(source: str, container: Any, stream: Any, frames: int, end: float) -> None:
    """Compare the number of frames and the time of the last one with the header, as far as it states them."""
    if 0 < stream.frames <= frames:
        return
    rate = float(stream.average_rate or 0)
    start = float((stream.start_time or 0) * stream.time_base)
    stated = [0.0]
    if stream.duration or container.duration:
        stated.append(float(stream.duration * stream.time_base) if stream.duration else container.duration / 1e6)
    if rate:
        stated.append(stream.frames / rate)  # of AVI files, whose duration is computed from their size
    if max(stated) - (end - start) > MISSING + (1 / rate if rate else 0):
        log.warning(
            "%s: ends after %d frames and %.1f of %.1f seconds; the file may be cut off",
            *(source, frames, end - start, max(stated)),
        )


def predict_video(
    predictor: Predictor, source: str, every: int = 1, batch_size: int = 8, threshold: float | None = None
) -> Iterator[tuple[Frame, Any]]:
    """Predict on the frames of a video, and yield each with its result; memory holds a few batches of frames."""
    waiting: deque[Frame] = deque()

    def pixels() -> Iterator[ImageArray]:
        for frame in read_frames(source, every):
            waiting.append(frame)
            yield frame.pixels

    for result in predictor.stream(pixels(), batch_size, threshold):
        yield waiting.popleft(), result


class VideoWriter:
    """Write pictures (h, w, 3) of one size, at their times, as a video file; use it in a ``with`` statement."""

    def __init__(self, path: Path) -> None:
        self._av = _import_av()
        self._container = self._av.open(str(path), "w")
        self._stream: Any = None
        self._last = -1

    def __enter__(self) -> VideoWriter:
        """Return the writer."""
        return self

    def write(self, pixels: ImageArray, seconds: float) -> None:
        """Append a picture; one column and row are repeated where the codec needs even numbers of them."""
        height, width = pixels.shape[:2]
        if self._stream is None:
            codec = "libx264" if "libx264" in self._av.codecs_available else "mpeg4"
            self._stream = self._container.add_stream(codec, rate=30)
            self._stream.width, self._stream.height = width + width % 2, height + height % 2
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = TIME_BASE
        even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        self._last = frame.pts = max(self._last + 1, round(seconds / TIME_BASE))
        frame.time_base = TIME_BASE
        self._container.mux(self._stream.encode(frame))

    def __exit__(self, *_: object) -> None:
        """Complete the file."""
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()


def make_tracker() -> Track:
    """Return a function that numbers the objects of consecutive frames, by ByteTrack of the package trackers.

    It maps the detections of a frame and its seconds to the same detections with ``track_ids``.

    Raises DetsegError without the package.
    """
    try:
        from trackers import ByteTrackTracker
    except ImportError as error:
        raise DetsegError("tracking needs the package trackers: pip install 'detseg[track]'") from error
    tracker = ByteTrackTracker()

    def track(result: DetectionResult, seconds: float) -> DetectionResult:
        detections = replace(result, mask_rles=None).to_supervision()  # which would decode the masks
        detections.data["row"] = np.arange(len(result))
        tracked = tracker.update(detections, timestamp=seconds)
        ids = np.full(len(result), -1, dtype=np.int64)
        if len(tracked):
            ids[tracked.data["row"]] = tracked.tracker_id
        return replace(result, track_ids=ids)

    return track


def frame_entry(source: str, frame: Frame, result: Result) -> dict[str, Any]:
    """Describe the result of a frame in plain values, as `detseg predict` writes it."""
    return {**result.to_json(), "file": source, "frame": frame.number, "seconds": round(frame.seconds, 6)}


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise DetsegError("videos need the package PyAV: pip install 'detseg[av]'") from error
    return av
