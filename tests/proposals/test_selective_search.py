from __future__ import annotations

import math
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2hsv, rgb2lab

from detseg.data import VOC
from detseg.data.annotations.images import read_image
from detseg.metrics import proposal_recall
from detseg.proposals.selective_search import (
    STRATEGIES,
    Regions,
    adjacent,
    convert,
    describe,
    directions,
    group,
    hierarchies,
    selective_search,
    similarity,
)


def scene(height: int = 30, width: int = 40, seed: int = 0) -> NDArray[np.uint8]:
    """Rectangles of random colours, with a little noise."""
    generator = np.random.default_rng(seed)
    image = np.full((height, width, 3), generator.integers(255, size=3))
    for _ in range(8):
        y, x = generator.integers(0, [height - 6, width - 6])
        image[y : y + generator.integers(5, height), x : x + generator.integers(5, width)] = generator.integers(
            255, size=3
        )
    return (image + generator.integers(-6, 7, image.shape)).clip(0, 255).astype(np.uint8)


def blocks(seed: int, height: int = 30, width: int = 40) -> NDArray[np.int64]:
    """A segmentation into the cells of an uneven grid, some of them united."""
    generator = np.random.default_rng(seed)
    rows, columns = (np.sort(generator.choice(np.arange(1, n), 3, replace=False)) for n in (height, width))
    cells = np.searchsorted(rows, np.arange(height), "right")[:, None] * 4 + np.searchsorted(
        columns, np.arange(width), "right"
    )
    cells[cells == 5] = 6
    _, labels = np.unique(cells, return_inverse=True)
    return labels.reshape(height, width)


def described(seed: int) -> tuple[NDArray[np.int64], Regions]:
    colours = convert(scene(seed=seed), "HSV")
    labels = blocks(seed)
    return labels, describe(labels, colours, directions(colours))


def plain_histogram(
    labels: NDArray[np.int64], region: int, maps: NDArray[np.uint8], bins: int, top: int
) -> list[float]:
    """Counted pixel by pixel."""
    counts = [[0] * bins for _ in maps]
    for y, x in zip(*np.nonzero(labels == region), strict=True):
        for channel, values in enumerate(maps):
            counts[channel][int(values[y, x]) * bins // top] += 1
    flat = [count for channel in counts for count in channel]
    return [count / sum(flat) for count in flat]


@pytest.mark.parametrize("seed", range(3))
def test_regions_are_described_as_a_loop_over_pixels_does(seed: int) -> None:
    colours = convert(scene(seed=seed), "HSV")
    edges = directions(colours)
    labels, regions = described(seed)
    assert regions.colours.shape[1] == 75  # section 3.2
    assert regions.textures.shape[1] == 240
    for region in range(len(regions.sizes)):
        y, x = np.nonzero(labels == region)
        assert regions.sizes[region] == len(y)
        assert regions.boxes[region].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        channels = np.moveaxis(colours, 2, 0)
        assert np.allclose(regions.colours[region], plain_histogram(labels, region, channels, 25, 256), atol=1e-6)
        assert np.allclose(regions.textures[region], plain_histogram(labels, region, edges, 10, 10), atol=1e-6)


def test_neighbours_share_an_edge() -> None:
    labels = blocks(1)
    expected = set()
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            for other in ((y + 1, x), (y, x + 1)):
                if other[0] < labels.shape[0] and other[1] < labels.shape[1] and labels[y, x] != labels[other]:
                    expected.add(tuple(sorted((int(labels[y, x]), int(labels[other])))))
    assert list(map(tuple, adjacent(labels).tolist())) == sorted(expected)


def plain_similarity(labels: NDArray[np.int64], regions: Regions, kind: str, a: int, b: int) -> float:
    """Equations 1 to 6 written out."""
    if kind in "CT":
        histograms = regions.colours if kind == "C" else regions.textures
        return math.fsum(min(x, y) for x, y in zip(histograms[a].tolist(), histograms[b].tolist(), strict=True))
    both = (labels == a) | (labels == b)
    if kind == "S":
        return 1 - both.sum() / labels.size
    y, x = np.nonzero(both)
    box = (x.max() + 1 - x.min()) * (y.max() + 1 - y.min())
    return 1 - (box - both.sum()) / labels.size


@pytest.mark.parametrize("kinds", ["C", "T", "S", "F", "CTSF", "TSF"])
def test_similarities_are_the_papers_formulas(kinds: str) -> None:
    labels, regions = described(0)
    pairs = adjacent(labels)
    found = similarity(regions, kinds, pairs[:, 0], pairs[:, 1], labels.size)
    expected = [sum(plain_similarity(labels, regions, kind, a, b) for kind in kinds) for a, b in pairs.tolist()]
    assert np.allclose(found, expected, atol=1e-5)
    one = similarity(regions, kinds, pairs[:, 0], np.array(2), labels.size)
    assert np.allclose(one, similarity(regions, kinds, pairs[:, 0], np.full(len(pairs), 2), labels.size))


def plain_grouping(colours: NDArray[np.uint8], labels: NDArray[np.int64], kinds: str) -> list[list[int]]:
    """Algorithm 1 without any bookkeeping: after each union all is described and compared again."""
    labels = labels.copy()
    edges = directions(colours)
    regions = describe(labels, colours, edges)
    boxes = regions.boxes.tolist()
    names = list(range(len(boxes)))  # the number that each region has in the list of boxes
    while len(names) > 1:
        pairs = adjacent(labels).tolist()
        values = [sum(plain_similarity(labels, regions, kind, a, b) for kind in kinds) for a, b in pairs]
        best = max(values)
        equal = [pair for pair, value in zip(pairs, values, strict=True) if value > best - 1e-6]
        a, b = min(equal, key=lambda pair: sorted((names[pair[0]], names[pair[1]])))
        names = [name for label, name in enumerate(names) if label not in (a, b)] + [len(boxes)]
        labels[(labels == a) | (labels == b)] = labels.max() + 1
        _, flat = np.unique(labels, return_inverse=True)
        labels = flat.reshape(labels.shape)
        regions = describe(labels, colours, edges)
        boxes.append(regions.boxes[-1].tolist())
    return boxes


@pytest.mark.parametrize("kinds", ["CTSF", "TSF", "F", "S"])
@pytest.mark.parametrize("seed", range(4))
def test_grouping_is_that_of_an_algorithm_without_bookkeeping(kinds: str, seed: int) -> None:
    colours = convert(scene(seed=seed), "HSV")
    labels, regions = described(seed)
    found = group(regions, adjacent(labels), kinds, labels.size)
    assert found.tolist() == plain_grouping(colours, labels, kinds)


def test_the_texture_is_made_of_gaussian_derivatives() -> None:
    colours = convert(scene(), "Lab")
    found = directions(colours)
    assert found.shape == (24, 30, 40)
    values = colours.astype(float)
    across = gaussian_filter(values, (1, 1, 0), order=(0, 1, 0), mode="mirror")
    down = gaussian_filter(values, (1, 1, 0), order=(1, 0, 0), mode="mirror")
    full = 255 / 4 / math.sqrt(2 * math.pi)
    for number, angle in enumerate((0, 180, 45, 225, 90, 270, 135, 315)):
        rise = math.cos(math.radians(angle)) * across + math.sin(math.radians(angle)) * down
        steps = np.floor(10 * rise / full).clip(0, 9).transpose(2, 0, 1)
        assert (found[3 * number : 3 * number + 3] == steps).mean() > 0.99  # roundings at the steps


def test_the_spaces_of_colours() -> None:
    image = scene(seed=3)
    lab = rgb2lab(image)
    expected = np.stack([lab[..., 0] * 2.55, lab[..., 1] + 128, lab[..., 2] + 128], axis=2)
    assert np.abs(convert(image, "Lab") - expected).max() < 3
    hsv = rgb2hsv(image) * 255
    turn = np.abs(convert(image, "HSV") - hsv)
    assert np.minimum(turn, 256 - turn).max() < 3
    assert np.array_equal(convert(image, "H"), convert(image, "HSV")[..., :1])
    rgb = image.astype(float)
    share = 255 * rgb / rgb.sum(axis=2, keepdims=True)
    grey = rgb @ [0.299, 0.587, 0.114]
    assert np.abs(convert(image, "rgI") - np.dstack([share[..., :2], grey])).max() <= 1
    assert np.abs(convert(image, "I")[..., 0] - grey).max() <= 1


@pytest.mark.parametrize(("mode", "count"), [("fast", 8), ("quality", 80)])
def test_the_modes_have_as_many_groupings_as_in_the_papers_table_5(mode: str, count: int) -> None:
    strategies = STRATEGIES[mode]  # type: ignore[index]
    assert math.prod(map(len, strategies)) == count
    found = hierarchies(scene(), strategies)
    assert len(found) == count
    for boxes in found:
        assert boxes[-1].tolist() == [0, 0, 40, 30]


@patch("detseg.proposals.selective_search.LONG_EDGE", 70)
@settings(max_examples=8, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 99))
def test_boxes_are_inside_and_no_two_the_same(height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    boxes = selective_search(image)
    assert boxes.dtype == np.float32
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= [width + 1e-3, height + 1e-3]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert len(np.unique(boxes, axis=0)) == len(boxes)


@patch("detseg.proposals.selective_search.LONG_EDGE", 100)
def test_the_order_depends_on_the_seed_and_the_boxes_do_not() -> None:
    image = scene(seed=5)
    first, again, other = (selective_search(image, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(np.unique(first, axis=0), np.unique(other, axis=0))


@patch("detseg.proposals.selective_search.LONG_EDGE", 100)
def test_boxes_are_ranked_by_their_place_in_a_grouping_times_a_random_number() -> None:
    """Section 3.3 written out."""
    image = scene(75, 100, seed=6)
    generator = np.random.default_rng(4)
    ranks: dict[tuple[int, ...], float] = {}
    for hierarchy in hierarchies(image, STRATEGIES["fast"]):
        factors = generator.random(len(hierarchy))
        for place in range(1, len(hierarchy) + 1):
            box = tuple(hierarchy[len(hierarchy) - place].tolist())
            ranks[box] = min(ranks.get(box, math.inf), place * float(factors[place - 1]))
    expected = [box for box in sorted(ranks, key=lambda box: ranks[box]) if min(box[2] - box[0], box[3] - box[1]) >= 20]
    found = selective_search(image, seed=4)
    assert found.tolist() == [list(box) for box in expected]
    areas = (found[:, 2:] - found[:, :2]).prod(axis=1)
    assert areas[: len(areas) // 3].mean() > 1.5 * areas[-len(areas) // 3 :].mean()


def test_an_object_on_a_plain_ground_is_found_whatever_the_size_of_the_image() -> None:
    for scale in (1, 20):
        image = np.full((36 * scale, 48 * scale, 3), 200, np.uint8)
        image[9 * scale : 27 * scale, 12 * scale : 30 * scale] = (30, 90, 160)
        boxes = selective_search(image)
        distances = np.abs(boxes - np.array([12, 9, 30, 27]) * scale).max(axis=1)
        assert distances.min() <= max(1, 0.5 * scale)


def test_recall_on_real_photographs(shared_data: Path) -> None:
    data = VOC(str(shared_data / "voc2012_mini"))
    few = data.val_annotations.subset(np.arange(0, 50, 20))
    boxes = [selective_search(read_image(few.path(row))) for row in range(len(few))]
    assert proposal_recall(few, boxes)["recall50"] >= 0.9
    assert 1000 < np.mean([len(found) for found in boxes]) < 3000
