"""The losses of a network, compiled; on a GPU they are replayed as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from detseg.errors import ConfigError
from detseg.structures import Instances

SHAPES = 32  # of batches that may be compiled: six sizes of images, each in full batches and in the rest of an epoch

Loss = Callable[[Any], dict[str, Tensor]]


def compiled(loss: Loss) -> Loss:
    """``loss``, a network's, compiled as one graph for each shape of images, when a batch first has it.

    How many objects there are is left open: padded to powers of two, they would multiply the shapes.
    Raises ConfigError where it cannot be compiled, as without a compiler.
    """
    torch.compiler.config.recompile_limit = max(SHAPES, torch.compiler.config.recompile_limit)
    quick = torch.compile(loss, fullgraph=True, dynamic=False, mode="reduce-overhead")

    def run(batch: Any) -> dict[str, Tensor]:
        for values in batch:
            for value in values if isinstance(values, Instances) else ():
                if value is not None and value.shape[1] > 1:  # of one object, as a classifier's, there is always one
                    torch._dynamo.mark_dynamic(value, 1)
        try:
            losses = quick(batch)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).split("\n\n")[0]  # what follows is for developers of PyTorch
            raise ConfigError(f"model.compile_loss: torch.compile failed, train without it: {reason}") from error
        # Copies: the next step would overwrite what a CUDA graph has given.
        return {name: value.clone() for name, value in losses.items()}

    return run
