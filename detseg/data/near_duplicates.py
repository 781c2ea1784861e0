"""Near-duplicates: the same photograph resized, mirrored or recompressed, as opposed to similar photographs.

Embeddings are invariant to such changes, and to many others: two photographs of the same scene are as close as two
copies. So near-duplicates are detected by their pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SIMILARITY = 0.95  # correlation of grey thumbnails; measured on photographs in docs/looking.md
EDGE_SIMILARITY = 0.85  # and of their edges, without which two photographs of one sky would be the same
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
    plain, mirrored = ((_normalize(one), _edges(one)) for one in (grey, grey[:, :, ::-1]))
    pairs = []
    for start in range(0, count, CHUNK):
        rows = np.arange(start, min(start + CHUNK, count))
        columns = slice(rows[-1] + 1)
        similarity = np.zeros((len(rows), rows[-1] + 1), np.float32)
        for pixels, edges in (plain, mirrored):
            alike = plain[1][rows] @ edges[columns].T >= EDGE_SIMILARITY
            similarity = np.maximum(similarity, np.where(alike, plain[0][rows] @ pixels[columns].T, 0))
        similarity[np.arange(rows[-1] + 1) >= rows[:, None]] = 0  # earlier images alone
        first = (similarity >= threshold).argmax(axis=1)
        for position in np.flatnonzero(similarity.max(axis=1) >= threshold).tolist():
            pairs.append(Pair(int(first[position]), start + position, float(similarity[position, first[position]])))
    return pairs


def _normalize(maps: NDArray[np.float32], contrast: float = MIN_CONTRAST) -> NDArray[np.float32]:
    """Centre each of the maps (N, h, w) and scale it to length 1, less below ``contrast``, as vectors (N, h w)."""
    flat = maps.reshape(len(maps), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return np.asarray(flat / np.linalg.norm(flat, axis=1, keepdims=True).clip(min=SIDE * contrast))


def _edges(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Differences of neighbours in both directions, centred, so that nothing of a smooth gradient is left."""
    both = [_normalize(np.diff(grey, axis=axis), MIN_CONTRAST / 4) for axis in (1, 2)]
    return np.asarray(np.concatenate(both, axis=1) / np.sqrt(2, dtype=np.float32))
