"""Files of proposals in detectron2's format, read without running anything that they name.

They are pickles, which can call what they like when they are loaded. Here they get stand-ins for the parts of numpy
that an array is pickled with, and nothing else.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detseg.errors import DataError

XYXY, XYWH = 0, 1  # of detectron2's BoxMode; the others are for boxes that are turned, or relative to the image


class _Dtype:
    """In the place of ``numpy.dtype``: the type of plain numbers."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = str(code), "<"

    def __setstate__(self, state: Any) -> None:
        self.order = str(state[1])

    def read(self, content: bytes) -> NDArray[Any]:
        if self.code.lstrip("<>|=")[:1] not in set("fiub"):
            raise ValueError(f"an array of {self.code}")
        order: Literal[">", "<"] = ">" if self.order == ">" else "<"
        return np.frombuffer(content, np.dtype(self.code).newbyteorder(order))


class _Array:
    """In the place of ``numpy.ndarray``; ``value`` is an array, or the list that an array of objects holds."""

    value: Any = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        flat = content if isinstance(content, list) else dtype.read(_bytes(content))
        self.value = flat if isinstance(flat, list) else flat.reshape(shape, order="F" if fortran else "C")


def _bytes(content: Any) -> bytes:
    return content.encode("latin1") if isinstance(content, str) else bytes(content)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _from_buffer(content: Any, dtype: _Dtype, shape: Any, order: str) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", content))
    return array


def _scalar(dtype: _Dtype, content: Any) -> Any:
    return dtype.read(_bytes(content))[0].item()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":  # the only one that pickles of bytes have
        raise ValueError(f"the encoding {encoding}")
    return text.encode("latin1")


STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    ("_codecs", "encode"): _encode,
    ("detectron2.structures.boxes", "BoxMode"): int,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in STAND_INS:
            raise NameError(f"{module}.{name}")
        return STAND_INS[module, name]


def read_detectron2(file: Path) -> dict[str, NDArray[np.float32]]:
    """Read the boxes (N, 4), xyxy in pixels, of each image id, sorted by descending logit.

    The file holds a dictionary of lists, one entry for each image: ``ids``, ``boxes``, ``objectness_logits``; and
    ``bbox_mode``. Raises DataError if it is missing or broken, holds something else, or names other code than numpy's.
    """
    try:
        with file.open("rb") as stream:
            content = _Unpickler(stream, encoding="latin1").load()
    except OSError as error:
        raise DataError(f"{file}: cannot read these proposals: {error.strerror}") from None
    except NameError as error:
        raise DataError(
            f"{file}: names {error}, and only numpy arrays and plain containers are read, since anything else could "
            "run code; write it again with arrays alone"
        ) from None
    except Exception as error:  # a broken pickle can end in any
        raise DataError(f"{file}: damaged, cut short, or no pickle of proposals ({error})") from None
    if not isinstance(content, dict):
        raise DataError(f"{file}: holds a {type(content).__name__}, not detectron2's dictionary of proposals")
    columns = []
    for key in ("ids", "boxes", "objectness_logits"):
        column = _value(content.get(key))
        if not isinstance(column, (list, tuple, np.ndarray)):
            raise DataError(f"{file}: has no list of '{key}', as detectron2's proposals have")
        columns.append([_value(item) for item in column])
    mode = content.get("bbox_mode", XYXY)
    if mode not in (XYXY, XYWH):
        raise DataError(
            f"{file}: its bbox_mode is {mode!r}, and must be {XYXY} (x1, y1, x2, y2) or {XYWH} (x, y, w, h)"
        )
    if len({len(column) for column in columns}) > 1:
        raise DataError(f"{file}: ids, boxes and objectness_logits are of {[len(column) for column in columns]} images")
    return {
        str(number): _sorted(file, number, boxes, logits, mode) for number, boxes, logits in zip(*columns, strict=True)
    }


def _value(item: Any) -> Any:
    return item.value if isinstance(item, _Array) else item


def _sorted(file: Path, number: Any, boxes: Any, logits: Any, mode: int) -> NDArray[np.float32]:
    """Convert the boxes of an image to xyxy, sorted by descending logit."""
    try:
        corners = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
        order = np.argsort(-np.asarray(logits, dtype=np.float64).reshape(len(corners)), kind="stable")
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{file}: image {number}: its boxes or logits are no list of numbers: {error}") from None
    if mode == XYWH:
        corners = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], axis=1)
    if not np.isfinite(corners).all():
        raise DataError(f"{file}: image {number}: a box has a value that is no number")
    return corners[order]
