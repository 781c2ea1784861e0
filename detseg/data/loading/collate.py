"""From samples to a batch: a few fixed sizes for the images, a power of two for the number of objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detseg.preprocessing import Preprocessing, ResizeConfig
from detseg.resizing import fit
from detseg.structures import STRIDE, Batch, Instances, Sample

FEWEST = 4  # objects that a batch has room for

PadShapes = Sequence[tuple[int, int]]


def default_pad_shapes(size: int, max_size: int) -> list[tuple[int, int]]:
    """List heights and widths to pad to after ``Resize``: square, 4:3, 3:2, the longest, and these upright.

    A handful of shapes that come again and again is what compiled and captured graphs need, and each of these is the
    commonest shape of some data set.
    """
    longest = [min(size * ratio, max_size) for ratio in (1, 4 / 3, 3 / 2)] + [max_size]
    short, *long = (int(-(-edge // STRIDE)) * STRIDE for edge in (size, *longest))
    wide = sorted({(short, edge) for edge in long})
    return wide + [(width, height) for height, width in wide if height != width]


def eval_pad_shapes(config: Preprocessing) -> list[tuple[int, int]]:
    """List the heights and widths that preprocessed images are padded to; none for multiples of 32."""
    if isinstance(config, ResizeConfig):
        return default_pad_shapes(config.min_size, config.max_size)
    return [(config.size, config.size)] if config else []


def assign_bucket(sizes: NDArray[Any], pad_shapes: PadShapes) -> NDArray[np.int64]:
    """Position of the smallest bucket that holds each of ``sizes`` (I, 2), or -1 where none does."""
    shapes = np.array(pad_shapes, dtype=np.int64).reshape(-1, 2)
    order = np.argsort(shapes.prod(axis=1), kind="stable")
    holds = (sizes[:, None] <= shapes[order]).all(axis=2)
    holds = np.concatenate([holds, np.ones((len(sizes), 1), dtype=bool)], axis=1)
    positions: NDArray[np.int64] = np.append(order, -1)[holds.argmax(axis=1)]
    return positions


def bucket_ids(sizes: NDArray[Any], preprocessing: ResizeConfig | None) -> NDArray[np.int64]:
    """Return the bucket of each image file (I, 2): the same for images that are padded to the same size."""
    if preprocessing is not None:
        fitted = fit(sizes, preprocessing.min_size, preprocessing.max_size)
        return assign_bucket(fitted, eval_pad_shapes(preprocessing))
    return np.unique(-(-sizes // STRIDE), axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def collate(samples: Sequence[Sample], pad_shapes: PadShapes = ()) -> Batch:
    """Pad images to the smallest bucket that holds them all, else to multiples of 32; objects to a power of two.

    Proposals are padded like objects, apart from them; there are none where a sample has none.
    Pixels lie in memory row by row, colours together (channels_last), as image files are decoded: turning them would
    take longer than all the rest. No sample at all gives a batch of no images.
    """
    sizes = np.array([sample.image.shape[1:] for sample in samples], dtype=np.int64).reshape(-1, 2)
    largest = sizes.max(axis=0, initial=1)
    position = int(assign_bucket(largest[None], pad_shapes)[0])
    height, width = pad_shapes[position] if position >= 0 else (-(-largest // STRIDE) * STRIDE).tolist()
    images = torch.zeros(len(samples), height, width, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    targets = _pad([sample.boxes for sample in samples])
    labels = torch.zeros(targets.valid.shape, dtype=torch.int64)
    for i, sample in enumerate(samples):
        h, w = sample.image.shape[1:]
        images[i, :, :h, :w] = sample.image
        labels[i, : len(sample.labels)] = sample.labels
    masks = [sample.masks for sample in samples if sample.masks is not None]
    if masks and len(masks) == len(samples):
        targets = targets._replace(masks=masks[0].new_zeros(*targets.valid.shape, *masks[0].shape[1:]))
        assert targets.masks is not None
        for i, grids in enumerate(masks):
            targets.masks[i, : len(grids)] = grids
    # A batch of no images has room for them: a model that needs proposals must take it too.
    proposals = [sample.proposals for sample in samples if sample.proposals is not None]
    return Batch(
        images=images,
        image_sizes=torch.from_numpy(sizes),
        targets=targets._replace(labels=labels),
        image_index=torch.tensor([sample.image_index for sample in samples], dtype=torch.int64),
        original_sizes=torch.tensor([sample.original_size for sample in samples], dtype=torch.int64).reshape(-1, 2),
        proposals=_pad(proposals) if len(proposals) == len(samples) else None,
        seeds=torch.tensor([sample.seed for sample in samples], dtype=torch.int64),
    )


def _pad(boxes: Sequence[Tensor]) -> Instances:
    """Boxes (n, 4) of each image in a batch of them, with room for a power of two."""
    most = max(map(len, boxes), default=0)
    count = max(FEWEST, 1 << (most - 1).bit_length() if most else 0)
    padded = torch.zeros(len(boxes), count, 4)
    valid = torch.zeros(len(boxes), count, dtype=torch.bool)
    for i, image_boxes in enumerate(boxes):
        padded[i, : len(image_boxes)] = image_boxes
        valid[i, : len(image_boxes)] = True
    return Instances(padded, valid)
