"""The part of `detseg predict` that reads a video in place of images."""

from __future__ import annotations

import logging
from contextlib import nullcontext, suppress
from itertools import chain
from typing import Any

import numpy as np
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from detseg.errors import ConfigError, DataError
from detseg.folders import make_folder, writing
from detseg.inference.predictor import Predictor
from detseg.inference.result_files import RESULTS, ResultsWriter, start
from detseg.inference.video import CAMERA, VideoWriter, frame_entry, is_video, make_tracker, predict_video
from detseg.models import Detector

log = logging.getLogger(__name__)

OF_IMAGES = {"resume": False, "shard": "1/1", "as": None, "devices": 1, "instances": False}  # options and defaults
OF_VIDEOS = {"every": 1, "track": False}
DRAWN = "drawn.mp4"
UNFINISHED = "frames.jsonl"  # a video is never continued, unlike images


def add_video_options(parser: ArgumentParser) -> None:
    """Add the options that ``predict_on_video`` reads."""
    parser.add_argument("--every", type=PositiveInt, default=1, help="Videos: predict on every n-th frame.")
    parser.add_argument("--track", type=bool, default=False, help="Videos: track the objects, and number the tracks.")


def names_video(options: Namespace) -> bool:
    """Tell if a video or a camera is to be predicted on. Raises ConfigError for images or options beside it."""
    names_one = any(map(is_video, options.images))
    if names_one and len(options.images) > 1:
        raise ConfigError("images: a video or a camera must be the only one; predict on others in another run")
    for name, default in (OF_IMAGES if names_one else OF_VIDEOS).items():
        if options[name] != default:
            raise ConfigError(f"--{name} is for {'images' if names_one else 'a video'}; leave it out")
    return names_one


def predict_on_video(predictor: Predictor, options: Namespace, batch_size: int) -> None:
    """Write the result of each frame of a video as it comes, and the drawn video unless ``draw`` is "none".

    Raises ConfigError for results of images in ``out`` that would be lost, DataError for a video without a frame.
    """
    (source,) = options.images
    if options.track and not isinstance(predictor.model, Detector):
        raise ConfigError("--track numbers objects, and this model is no detector; leave it out")
    track = make_tracker() if options.track else None
    make_folder("--out", options.out)
    file, unfinished = options.out / RESULTS, options.out / UNFINISHED
    results = predict_video(predictor, source, options.every, batch_size, options.threshold)
    first = next(results, None)  # a video that cannot be read leaves earlier results as they are
    if first is None:
        raise DataError(f"{source}: has no frame; record or download it again")
    until_stopped: Any = suppress(KeyboardInterrupt) if source.startswith(CAMERA) else nullcontext()
    with writing("--out", options.out):
        start(file, False, {"task": "frames of a video"})
        unfinished.with_name(f"{UNFINISHED}.part0").unlink(missing_ok=True)
        video: Any = nullcontext() if options.draw == "none" else VideoWriter(options.out / DRAWN)
        writer, count = ResultsWriter(unfinished), 0
        with video as drawn, until_stopped:
            for frame, result in chain([first], results):
                if track:
                    result = track(result, frame.seconds)
                writer.append(frame_entry(source, frame, result))
                if drawn is not None:
                    picture = np.asarray(result.plot().convert("RGB"))
                    drawn.write(picture[: len(frame.pixels)], frame.seconds)  # no legend, whose height would change
                count += 1
        writer.close()
        writer.path.replace(file)
    log.info("%d frames: %s%s", count, file, "" if options.draw == "none" else f", {options.out / DRAWN}")
