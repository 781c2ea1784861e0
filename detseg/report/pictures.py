"""Images of a page with the boxes of objects and detections, which the page draws itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import cv2
import numpy as np

from detseg.check.rendering import data_uri, json_size, shrink
from detseg.ops.rle import decode, from_string
from detseg.report.evaluation import Evaluation, Floats

LONG_EDGE, QUALITY = 400, 70
MAX_BYTES = 8_000_000  # of a page, and of the images that it can hold at most
MAX_BOXES = 40  # of each kind in an image, besides highlighted ones
MIN_SCORE = 0.05
TRUE, FALSE, IGNORED = range(3)


class View(NamedTuple):
    """An image with some of its objects and detections (rows) highlighted."""

    image: int
    caption: str = ""
    objects: tuple[int, ...] = ()
    detections: tuple[int, ...] = ()


class Album:
    """Embed the images of views, each once, in the order in which they are asked for, up to ``MAX_BYTES``.

    ``left_out`` are those that find no room.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        run = evaluation.run
        self.run, self.masks = run, run.masks is not None
        self.images: dict[int, dict[str, Any]] = {}
        self.left_out: set[int] = set()
        self._size = 0
        self._objects: dict[int, list[int]] = {}
        self._detections: dict[int, list[int]] = {}
        self._status = np.full(len(run.detections.scores), IGNORED)
        self._status[evaluation.matches.rows] = np.where(evaluation.tp, TRUE, np.where(evaluation.fp, FALSE, IGNORED))
        self._target = np.full(len(run.detections.scores), -1)
        self._target[evaluation.matches.rows] = np.where(evaluation.tp, evaluation.matches.objects, evaluation.confused)

    def add(self, views: Iterable[View]) -> list[dict[str, Any]]:
        """Describe views for the page; those whose image cannot be read or finds no room are left out."""
        described = []
        for view in views:
            if not self._embed(view.image):
                continue
            objects, detections = self._objects[view.image], self._detections[view.image]
            objects += [row for row in view.objects if row not in objects]
            detections += [row for row in view.detections if row not in detections]
            described.append(
                {
                    "image": view.image,
                    "caption": view.caption,
                    "objects": [objects.index(row) for row in view.objects],
                    "detections": [detections.index(row) for row in view.detections],
                }
            )
        return described

    def to_json(self, room: int) -> dict[str, Any]:
        """The embedded images with their boxes, in pixels of the page: the first that ``room`` bytes can hold."""
        for image, rows in self._detections.items():  # without its detection, an object would look missed
            begin, end = np.searchsorted(self.run.detections.images, [image, image + 1])
            hits = begin + np.flatnonzero(self._status[begin:end] == TRUE)
            shown = np.isin(self._target[hits], self._objects[image]) & ~np.isin(hits, rows)
            rows += hits[shown].tolist()
        fitting: dict[str, Any] = {}
        for image, one in self.images.items():
            described = one | self._boxes(image, one["scale"])
            room -= json_size({str(image): described})
            if room >= 0:
                fitting[str(image)] = described
            else:
                self.left_out.add(image)
        return fitting

    def _embed(self, image: int) -> bool:
        if image in self.images:
            return True
        if self._size > MAX_BYTES:
            self.left_out.add(image)
        if image in self.left_out or (pixels := self.run.image(image)) is None:
            return False
        small = shrink(pixels, LONG_EDGE)
        source = data_uri(small, QUALITY)
        self._size += len(source)
        height, width = small.shape[:2]
        scale = [width / pixels.shape[1], height / pixels.shape[0]]
        self.images[image] = {
            "source": source,
            "width": width,
            "height": height,
            "name": self.run.path(image).name,
            "scale": scale,
        }
        begin, end = np.searchsorted(self.run.detections.images, [image, image + 1])
        scores = self.run.detections.scores[begin:end]
        best = np.argsort(-scores, kind="stable")[:MAX_BOXES]
        self._detections[image] = (begin + best[scores[best] >= MIN_SCORE]).tolist()
        begin, end = np.searchsorted(self.run.truth.images, [image, image + 1])
        self._objects[image] = list(range(begin, min(end, begin + MAX_BOXES)))
        return True

    def _boxes(self, image: int, scale: list[float]) -> dict[str, Any]:
        truth, detections = self.run.truth, self.run.detections
        objects, rows = self._objects[image], self._detections[image]
        ignored = truth.crowd | truth.difficult
        four = np.tile(scale, 2)
        return {
            "truth": [
                {
                    "box": _rounded(truth.boxes[row] * four),
                    "label": int(truth.labels[row]),
                    "ignored": bool(ignored[row]),
                    "path": self._path(truth, row, image, scale),
                }
                for row in objects
            ],
            "detections": [
                {
                    "box": _rounded(detections.boxes[row] * four),
                    "label": int(detections.labels[row]),
                    "score": round(float(detections.scores[row]), 6),
                    "status": int(self._status[row]),
                    "target": objects.index(self._target[row]) if self._target[row] in objects else -1,
                    "path": self._path(detections, row, image, scale),
                }
                for row in rows
            ],
        }

    def _path(self, table: Any, row: int, image: int, scale: list[float]) -> str:
        """The outline of a mask as the path of an SVG; empty without masks."""
        if not self.masks:
            return ""
        mask = decode(from_string(table.masks[row]), *self.run.sizes[image].tolist()).astype(np.uint8)
        contours, _ = cv2.findContours(np.ascontiguousarray(mask), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        outlines = (cv2.approxPolyDP(one, 1.5 / scale[0], True)[:, 0] * scale for one in contours)
        return "".join("M" + "L".join(f"{x:.0f} {y:.0f}" for x, y in one) + "Z" for one in outlines if len(one) > 2)


def _rounded(box: Floats) -> list[float]:
    return [round(value, 1) for value in box.tolist()]
