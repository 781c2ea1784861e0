"""Objects that are listed more than once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations.masks import Masks


def doubled_objects(
    image_index: NDArray[np.int64], boxes: NDArray[np.float64], labels: NDArray[np.int64], masks: Masks | None
) -> Iterator[tuple[int, int]]:
    """Yield the row of each repeated object, and that of its first occurrence: same image, class, box and mask."""
    columns = np.concatenate([image_index[:, None], labels[:, None], boxes], axis=1)
    keys = columns @ np.sqrt([2, 3, 5, 7, 11, 13])  # equal rows have equal keys, and few others do
    order = np.argsort(keys, kind="stable")
    same = keys[order[1:]] == keys[order[:-1]]
    first: dict[bytes, int] = {}
    for row in np.sort(order[np.append(same, False) | np.append(False, same)] if len(keys) else order).tolist():
        mask = b"" if masks is None else masks.data[slice(*masks.byte_ranges[row].tolist())].tobytes()
        key = columns[row].tobytes() + mask
        if first.setdefault(key, row) != row:
            yield row, first[key]
