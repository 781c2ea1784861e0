"""Selective search (Uijlings et al. 2013, IJCV 104): boxes of ever larger regions of an image."""

from __future__ import annotations

import heapq
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Mode = Literal["fast", "quality"]

LONG_EDGE = 500  # pixels, as of VOC's images: the search is not invariant to scale (R-CNN, section 4.2)
MIN_BOX_SIDE = 20  # pixels of a box's side after the resizing, as in the authors' program
BLUR = 0.8  # sigma before the first segmentation
COLOUR_BINS, TEXTURE_BINS = 25, 10  # of the histograms of one channel, and of one channel in one direction
# The last of the ten is for edges of more than a quarter of the range, which has a response of 255 / sqrt(2 pi): of all
# ten over the whole range, nine would be nearly empty.
MAX_SLOPE = 255 / 4 / np.sqrt(2 * np.pi)


class Strategies(NamedTuple):
    """Diversification strategies: an image is grouped once for each combination (section 3.2)."""

    spaces: tuple[str, ...]  # of colours
    scales: tuple[int, ...]  # k of the first segmentation, which is also the fewest pixels of its regions
    similarities: tuple[str, ...]  # initials of those that are added: Colour, Texture, Size, Fill


STRATEGIES: dict[Mode, Strategies] = {  # table 5
    "fast": Strategies(("HSV", "Lab"), (50, 100), ("CTSF", "TSF")),
    "quality": Strategies(("HSV", "Lab", "rgI", "H", "I"), (50, 100, 150, 300), ("CTSF", "TSF", "F", "S")),
}


class Regions(NamedTuple):
    """R regions of an image, then their unions."""

    sizes: NDArray[np.int64]  # (R,) pixels
    boxes: NDArray[np.int64]  # (R, 4) xyxy
    colours: NDArray[np.float32]  # (R, 25 C) histogram with a sum of 1
    textures: NDArray[np.float32]  # (R, 240 for 3 channels) histogram with a sum of 1


def selective_search(image: NDArray[np.uint8], mode: Mode = "fast", seed: int = 0) -> NDArray[np.float32]:
    """Propose boxes (N, 4), xyxy in pixels of ``image`` (h, w, 3) RGB, without duplicates, likely objects first.

    The rank of a box is its place in its grouping, counted from the whole image down, times a random number from 0 to
    1, which ``seed`` draws: large regions come early, yet no size and no grouping before all others (section 3.3).
    """
    height, width = image.shape[:2]
    scale = LONG_EDGE / max(height, width)
    small = image
    if scale != 1:
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        small = cv2.resize(image, size, interpolation=interpolation).astype(np.uint8, copy=False)
    generator = np.random.default_rng(seed)
    boxes, ranks = [], []
    for hierarchy in hierarchies(small, STRATEGIES[mode]):
        boxes.append(hierarchy[::-1])  # the whole image first
        ranks.append(np.arange(1, len(hierarchy) + 1) * generator.random(len(hierarchy)))
    ranked = np.concatenate(boxes)[np.argsort(np.concatenate(ranks), kind="stable")]
    ranked = ranked[(ranked[:, 2:] - ranked[:, :2] >= MIN_BOX_SIDE).all(axis=1)]
    _, first = np.unique(ranked, axis=0, return_index=True)
    factors = np.array([width / small.shape[1], height / small.shape[0]] * 2)
    return np.asarray(ranked[np.sort(first)] * factors, dtype=np.float32)


def hierarchies(image: NDArray[np.uint8], strategies: Strategies) -> list[NDArray[np.int64]]:
    """Return the boxes (2R - 1, 4) of every grouping: R regions of a segmentation and R - 1 unions of two regions."""
    from skimage.segmentation import felzenszwalb  # imports SciPy, which takes seconds

    boxes = []
    for space in strategies.spaces:
        colours = convert(image, space)
        edges = directions(colours)
        for scale in strategies.scales:
            labels = felzenszwalb(colours, scale=scale, sigma=BLUR, min_size=scale)
            regions, pairs = describe(labels, colours, edges), adjacent(labels)
            boxes += [group(regions, pairs, similarity, labels.size) for similarity in strategies.similarities]
    return boxes


def convert(image: NDArray[np.uint8], space: str) -> NDArray[np.uint8]:
    """Convert an RGB image to a colour space (h, w, C), each channel from 0 to 255."""
    if space == "Lab":
        return cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.uint8, copy=False)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)
    if space == "I":
        return grey[..., None]
    if space == "rgI":
        shares = image * (255 / image.sum(axis=2, keepdims=True, dtype=np.float32).clip(1))
        return np.dstack([shares[..., :2], grey]).astype(np.uint8)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL).astype(np.uint8, copy=False)
    return hsv if space == "HSV" else hsv[..., :1]


def directions(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the slope of each channel in eight directions, in ten steps: (8 C, h, w) of 0 to 9."""
    x = np.arange(-4, 5)
    smooth = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    derivative = x * smooth
    values = colours.astype(np.float32)
    across = cv2.sepFilter2D(values, cv2.CV_32F, derivative, smooth).reshape(colours.shape)
    down = cv2.sepFilter2D(values, cv2.CV_32F, smooth, derivative).reshape(colours.shape)
    steps = []
    for angle in np.arange(4) * np.pi / 4:
        rise = (np.cos(angle) * across + np.sin(angle) * down) * (TEXTURE_BINS / MAX_SLOPE)
        steps += [rise.clip(0, TEXTURE_BINS - 1), (-rise).clip(0, TEXTURE_BINS - 1)]  # and the opposite direction
    return np.concatenate([step.astype(np.uint8).transpose(2, 0, 1) for step in steps])


def describe(labels: NDArray[np.int64], colours: NDArray[np.uint8], edges: NDArray[np.uint8]) -> Regions:
    """Describe the regions of a segmentation ``labels`` (h, w), numbered from 0."""
    count = int(labels.max()) + 1
    sizes = np.bincount(labels.ravel(), minlength=count)
    boxes = np.zeros((count, 4), dtype=np.int64)
    for axis in (0, 1):
        lines = np.unique(labels * labels.shape[axis] + np.indices(labels.shape, sparse=True)[axis])
        owner, line = np.divmod(lines, labels.shape[axis])
        first = np.searchsorted(owner, np.arange(count + 1))
        boxes[:, 1 - axis], boxes[:, 3 - axis] = line[first[:-1]], line[first[1:] - 1] + 1
    bins = (colours.transpose(2, 0, 1).astype(np.int64) * COLOUR_BINS) >> 8
    return Regions(sizes, boxes, _histograms(labels, bins, COLOUR_BINS), _histograms(labels, edges, TEXTURE_BINS))


def _histograms(labels: NDArray[np.int64], values: NDArray[np.integer], bins: int) -> NDArray[np.float32]:
    """Return the histograms (R, M * bins) of the maps (M, h, w) in each region, with a sum of 1."""
    count = int(labels.max()) + 1
    starts = labels * bins
    counts = [np.bincount((starts + one).ravel(), minlength=count * bins).reshape(count, bins) for one in values]
    joined: NDArray[np.float32] = np.concatenate(counts, axis=1).astype(np.float32)
    joined /= joined.sum(axis=1, keepdims=True)
    return joined


def adjacent(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the pairs (P, 2) of regions that share an edge of a pixel, the smaller number first."""
    pairs = [
        np.stack([labels[:, :-1].ravel(), labels[:, 1:].ravel()]),
        np.stack([labels[:-1].ravel(), labels[1:].ravel()]),
    ]
    first, second = np.concatenate(pairs, axis=1)
    touching = first != second
    first, second = np.minimum(first, second)[touching], np.maximum(first, second)[touching]
    count = int(labels.max()) + 1
    return np.stack(np.divmod(np.unique(first * count + second), count), axis=1)


def similarity(
    regions: Regions, measures: str, a: NDArray[np.int64], b: NDArray[np.int64], area: int
) -> NDArray[np.float64]:
    """Return the similarity (P,) of regions ``a`` and ``b`` (P,) of an image of ``area`` pixels, a sum of ``measures``.

    Each measure is between 0 and 1 (section 3.2): the overlap of the histograms of colours (C) and of textures (T), the
    fraction of the image outside of both (S), and one minus the fraction of the image that is in their common box and
    outside of both (F).
    """
    total = np.zeros(np.broadcast(a, b).shape)
    if "C" in measures:
        total += np.minimum(regions.colours[a], regions.colours[b]).sum(axis=-1)
    if "T" in measures:
        total += np.minimum(regions.textures[a], regions.textures[b]).sum(axis=-1)
    sizes = regions.sizes[a] + regions.sizes[b]
    if "S" in measures:
        total += 1 - sizes / area
    if "F" in measures:
        corner = np.minimum(regions.boxes[a, :2], regions.boxes[b, :2])
        opposite = np.maximum(regions.boxes[a, 2:], regions.boxes[b, 2:])
        total += 1 - ((opposite - corner).prod(axis=-1) - sizes) / area
    return total


def group(regions: Regions, pairs: NDArray[np.int64], measures: str, area: int) -> NDArray[np.int64]:
    """Join the two most similar neighbours until one region is left (algorithm 1).

    Returns the boxes (2R - 1, 4) of the regions, then of their unions in the order of joining.
    """
    count = len(regions.sizes)
    regions = Regions(*(np.concatenate([column, np.zeros_like(column[1:])]) for column in regions))
    sizes, boxes, colours, textures = regions
    neighbours: list[set[int]] = [set() for _ in range(2 * count - 1)]
    for a, b in pairs.tolist():
        neighbours[a].add(b)
        neighbours[b].add(a)
    first = similarity(regions, measures, pairs[:, 0], pairs[:, 1], area)
    queue = [(-value, a, b) for value, (a, b) in zip(first.tolist(), pairs.tolist(), strict=True)]
    heapq.heapify(queue)
    joined = [False] * (2 * count - 1)
    for new in range(count, 2 * count - 1):
        _, a, b = heapq.heappop(queue)
        while joined[a] or joined[b]:
            _, a, b = heapq.heappop(queue)
        joined[a] = joined[b] = True
        sizes[new] = sizes[a] + sizes[b]
        boxes[new] = [*np.minimum(boxes[a, :2], boxes[b, :2]), *np.maximum(boxes[a, 2:], boxes[b, 2:])]
        for histograms in (colours, textures):
            histograms[new] = (sizes[a] * histograms[a] + sizes[b] * histograms[b]) / sizes[new]
        around = sorted(neighbours[a] | neighbours[b])
        others = [other for other in around if not joined[other]]
        neighbours[new].update(others)
        for other in others:
            neighbours[other].add(new)
        if others:
            values = similarity(regions, measures, np.array(others), np.array(new), area)
            for value, other in zip(values.tolist(), others, strict=True):
                heapq.heappush(queue, (-value, other, new))
    return boxes
