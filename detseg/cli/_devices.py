"""The device that ``--device`` names."""

from __future__ import annotations

import torch

from detseg.errors import ConfigError


def find_device(name: str | None) -> torch.device:
    """The device of this name, by default the best there is. Raises ConfigError if there is no such device."""
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    try:
        device = torch.device(name or ("cuda" if gpus else "cpu"))
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # AssertionError where torch has no CUDA
        known = ", ".join(["cpu", *gpus])
        raise ConfigError(f"--device {name}: there is no such device here; there is {known}") from error
    return device
