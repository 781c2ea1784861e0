"""Detection of losses and gradients that are not finite, without waiting for the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from detseg.errors import DetsegError


class LossCheck:
    """Check of one training step: its answer is asked for a step later, when the device has computed it anyway."""

    def __init__(self, step: int, losses: dict[str, Tensor], image_index: Tensor, total: Tensor) -> None:
        self.step, self.losses, self.image_index = step, losses, image_index
        self.finite = torch.isfinite(total.detach())
        self._send()

    def drop_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Zero all gradients unless the loss and every gradient are finite, so that the step does no harm."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        self.finite = self.finite & torch.isfinite(get_total_norm(gradients))  # of all ranks, unlike the loss
        self._send()
        if self.finite.device.type == "cpu" and self.finite:
            return
        broken = ~self.finite
        for gradient in gradients:
            gradient.masked_fill_(broken, 0)

    def is_finite(self) -> bool:
        """Wait for the answer of this step, not for later work of the device."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return bool(self._on_host)

    def raise_if_not_finite(self, path: Callable[[int], object]) -> None:
        """Raise DetsegError with the losses and the images, whose files ``path`` gives."""
        if self.is_finite():
            return
        values = ", ".join(f"{name} {value.item():g}" for name, value in self.losses.items())
        images = ", ".join(str(path(index)) for index in self.image_index.tolist())
        which = "loss" if not all(value.isfinite() for value in self.losses.values()) else "gradient of the loss"
        raise DetsegError(
            f"the {which} is not finite in step {self.step}: {values}; the images were {images}. "
            "Check their labels; if they are valid, lower `lr` or raise `warmup_steps`"
        )

    def _send(self) -> None:
        self._on_host = self.finite.to("cpu", non_blocking=True)
        self._arrived = torch.cuda.current_stream().record_event() if self.finite.is_cuda else None
