"""Near-duplicates: the same photograph resized, mirrored or compressed again, told from similar photographs.

Embeddings are made to forget such changes, and much else: two photographs of one kind are as near as two copies. So
copies are recognised by their pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SIMILARITY = 0.95  # correlation of grey thumbnails; measured on photographs in docs/looking.md
SIDE = 24  # pixels of these
MIN_CONTRAST = 2.0  # grey levels, standard deviation; a flat image resembles only flat ones
CHUNK = 2048  # images compared at once with all others


class Pair(NamedTuple):
    """Two images that are nearly the same."""

    first: int
    second: int
    similarity: float  # correlation, 1 for the same pixels


def near_duplicates(thumbnails: NDArray[np.uint8], threshold: float = SIMILARITY) -> list[Pair]:
    """Pair each image with the first one that it repeats, as it is or mirrored; in the order of the second.

    ``thumbnails`` are (N, s, s, 3) with s a multiple of 24. All pairs are compared.
    """
    count, side = len(thumbnails), thumbnails.shape[1]
    step = side // SIDE
    grey = thumbnails.astype(np.float32).mean(axis=3)
    grey = grey.reshape(count, SIDE, step, SIDE, step).mean(axis=(2, 4))
    grey -= grey.mean(axis=(1, 2), keepdims=True)
    grey /= np.linalg.norm(grey, axis=(1, 2), keepdims=True).clip(min=SIDE * MIN_CONTRAST)
    plain, mirrored = grey.reshape(count, -1), grey[:, :, ::-1].reshape(count, -1)
    pairs = []
    for start in range(0, count, CHUNK):
        rows = np.arange(start, min(start + CHUNK, count))
        columns = slice(rows[-1] + 1)
        similarity = np.maximum(plain[rows] @ plain[columns].T, plain[rows] @ mirrored[columns].T)
        similarity[np.arange(rows[-1] + 1) >= rows[:, None]] = 0  # earlier images alone
        first = (similarity >= threshold).argmax(axis=1)
        for position in np.flatnonzero(similarity.max(axis=1) >= threshold).tolist():
            pairs.append(Pair(int(first[position]), start + position, float(similarity[position, first[position]])))
    return pairs
