"""Batches that do not fit into the memory of a device, and the largest batch that does."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from detseg.errors import ConfigError
from detseg.structures import Batch, to_device
from detseg.tasks.compilation import Loss

if TYPE_CHECKING:
    from detseg.tasks.base import Task

log = logging.getLogger(__name__)

SHARE = 0.85  # of the memory that a batch may take
LARGEST = 4096  # images of a batch that are tried


class Halving:
    """The batch of a step, in halves where it does not fit as a whole; the log says so once."""

    def __init__(self) -> None:
        self._batch: Batch | None = None
        self._warned = False

    def whole(self, loss: Loss, batch: Batch) -> dict[str, Tensor] | None:
        """Compute the losses of a batch; None if it does not fit into the memory."""
        self._batch = batch
        with suppress(torch.OutOfMemoryError):
            return loss(batch)
        return None  # once the traceback is gone, which keeps the tensors of the failed pass

    def halves(self, loss: Loss) -> dict[str, Tensor]:
        """Compute the losses of the same batch in halves."""
        assert self._batch is not None
        if not self._warned:
            log.warning("%d images do not fit into the memory: they are computed in halves", len(self._batch.images))
        self._warned = True
        return in_halves(loss, self._batch)


def in_halves(loss: Loss, batch: Batch) -> dict[str, Tensor]:
    """Compute the losses of a batch from its halves, as two devices would, each with the memory of one half at a time.

    The backward pass computes a half again. Halves that do not fit are halved too. Raises OutOfMemoryError if a single
    image does not fit.
    """
    count = len(batch.images)
    if count < 2:
        raise torch.OutOfMemoryError("the memory of the device does not hold a single image")
    if batch.images.is_cuda:
        torch.cuda.empty_cache()
    total: dict[str, Tensor] = {}
    for part in (slice(count // 2), slice(count // 2, count)):
        half = tree_map(lambda value, part=part: value[part] if isinstance(value, Tensor) else value, batch)
        losses = None
        with suppress(torch.OutOfMemoryError):
            losses = checkpoint(loss, half, use_reentrant=False)
        for name, value in (in_halves(loss, half) if losses is None else losses).items():
            total[name] = total.get(name, 0) + value * (len(half.images) / count)
    return total


def largest_batch(share: Callable[[int], float], smallest: int = 1) -> int:
    """Find the largest number of images that take up to ``SHARE`` of the memory, by trying.

    ``share`` returns what a number of images takes of the memory. Raises OutOfMemoryError if ``smallest`` is too many.
    """

    def fits(images: int) -> bool:
        try:
            return share(images) <= SHARE
        except torch.OutOfMemoryError:
            return False

    if not fits(smallest):
        raise torch.OutOfMemoryError(f"a batch of {smallest} takes more than {SHARE:.0%} of the memory of the device")
    good, bad = smallest, 2 * smallest
    while bad <= LARGEST and fits(bad):
        good, bad = bad, 2 * bad
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def set_batch_size(task: Task) -> None:
    """Give the data of a task the largest batch that its GPU holds. Raises ConfigError without a GPU."""
    if task.device.type != "cuda":
        raise ConfigError("batch_size 'auto' tries the memory of a GPU; on a CPU, set a number")
    data, strategy = task.data, task.trainer.strategy
    data.batch_size = strategy.broadcast(largest_batch(_memory_share(task), data.min_batch_size))
    task.run_settings["batch_size"] = data.batch_size
    log.info("batch size %d: the largest that takes up to %.0f %% of the memory", data.batch_size, 100 * SHARE)


def _memory_share(task: Task) -> Callable[[int], float]:
    """Return a function that runs a training step of so many images, and returns the share of memory that it took.

    The images are copies of the one that is padded to the largest size. The state of an optimizer counts as two times
    the weights.
    """
    data, device = task.data, task.device
    chosen = np.unique(data.bucket_ids("train"), return_index=True)[1][:16].tolist()
    samples = map(data.dataset("train").__getitem__, chosen)
    sample = max(samples, key=lambda one: data.collate([one], data.train_pad_shapes).images.numel())
    state = 2 * sum(parameter.nbytes for parameter in task.model.parameters())

    def share(images: int) -> float:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        batch = to_device(data.collate([sample] * images, data.train_pad_shapes), device)
        try:
            with task.trainer.precision_plugin.forward_context():
                losses = task.model.loss(batch)
            torch.autograd.backward(list(losses.values()))
        finally:
            task.zero_grad()
        return float((torch.cuda.max_memory_reserved(device) + state) / torch.cuda.mem_get_info(device)[1])

    return share
