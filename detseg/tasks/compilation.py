"""The losses of a network, compiled; on a GPU they are replayed as CUDA graphs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from detseg.errors import ConfigError
from detseg.structures import Instances

log = logging.getLogger(__name__)

SHAPES = 16  # of images that are compiled: those that batches are padded to, and a few of mixed batches

Loss = Callable[[Any], dict[str, Tensor]]


def compiled(loss: Loss, graphs: bool = True) -> Loss:
    """``loss``, a network's, compiled as one graph for each shape of images, when a batch first has it.

    How many objects there are is left open: padded to powers of two, they would multiply the shapes. ``graphs`` asks
    for CUDA graphs, which leave gradients where the next step overwrites them: not for gradients that are accumulated.
    After ``SHAPES`` shapes of images, others are left as they are. Raises ConfigError where it cannot be compiled, as
    without a compiler.
    """
    torch.compiler.config.recompile_limit = max(2 * SHAPES, torch.compiler.config.recompile_limit)
    quick = torch.compile(loss, fullgraph=True, dynamic=False, mode="reduce-overhead" if graphs else "default")
    shapes: dict[torch.Size, bool] = {}  # that were seen: is it compiled?

    def run(batch: Any) -> dict[str, Tensor]:
        shape = batch.images.shape
        if shape not in shapes:
            shapes[shape] = len(shapes) < SHAPES
            if not shapes[shape]:
                log.warning("images %s: %d other shapes are compiled, this one is not", tuple(shape), SHAPES)
        if not shapes[shape]:
            return loss(batch)
        for values in batch:
            for value in values if isinstance(values, Instances) else ():
                if value is not None and value.shape[1] > 1:  # of one object, as a classifier's, there is always one
                    torch._dynamo.mark_dynamic(value, 1)
        try:
            losses = quick(batch)
        except torch._dynamo.exc.TorchDynamoException as error:
            loss(batch)  # raises a clearer error if the batch is wrong
            reason = str(error).split("\n\n")[0]  # what follows is for developers of PyTorch
            raise ConfigError(f"compile_loss: torch.compile failed, train without it: {reason}") from error
        # Copies: the next step overwrites the outputs of a CUDA graph.
        return {name: value.clone() for name, value in losses.items()}

    return run
