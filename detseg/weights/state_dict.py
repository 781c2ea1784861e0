"""State dicts: read from files without trusting them, and held against the network that they are meant for.

A file is read with ``weights_only=True``: tensors and plain values, no code.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from detseg.compat import translate_checkpoint
from detseg.errors import CheckpointError
from detseg.weights import model_card

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

COUNT = "num_batches_tracked"  # of batch norm that trains; frozen batch norm has none, and nobody else reads it


def read(path: str | Path) -> dict[str, Any]:
    """What is in a file of ``torch.save`` or safetensors, or in the folder of a published network, on the CPU.

    Raises CheckpointError, naming it, if it is missing, damaged, or holds more than tensors and plain values.
    """
    if Path(path).is_dir():
        return translate_checkpoint(model_card.read(Path(path)))
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        if Path(path).suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickle protocols; what cannot be read says so
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the file may hold anything
        named = re.search(r"(?:GLOBAL|Unsupported class) (\S+)", str(error))
        if named:
            raise CheckpointError(
                f"{path}: holds {named[1]}, and only tensors and plain values are read, since anything else could run "
                "code; save its state_dict alone where the file comes from"
            ) from error
        raise CheckpointError(
            f"{path}: damaged, cut short, or no checkpoint; get it again, or give another file"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a checkpoint")
    return translate_checkpoint(content)


def fetch(choice: WeightsEnum) -> dict[str, Any]:
    """torchvision's published weights, from its cache or the network. Raises CheckpointError where neither has them."""
    try:
        return choice.get_state_dict(check_hash=True, progress=True)  # type: ignore[no-any-return]
    except (OSError, RuntimeError) as error:  # RuntimeError for another hash
        raise CheckpointError(
            f"could not fetch {choice.url}: {error}; give its file in place of its name, or null to begin at random"
        ) from error


def read_weights(path: str | Path) -> dict[str, Any]:
    """As ``read``, for what must be a state dict, or a checkpoint of ours, which has one in it.

    Raises CheckpointError for anything else too.
    """
    content = read(path)
    state = content.get("state_dict") if "detseg" in content else content
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise CheckpointError(f"{path}: not a state dict, which has the names of tensors and the tensors alone")
    other = next((name for name, value in state.items() if not isinstance(value, Tensor)), None)
    if other is not None:
        raise CheckpointError(
            f"{path}: not a state dict, which has tensors alone: {other} is none; save the network's by itself"
        )
    return content


def of_network(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of a network from what ``read_weights`` gives, which may be a checkpoint of its task."""
    state = content["state_dict"] if "detseg" in content else content
    return {name.removeprefix(model_card.PREFIX): value for name, value in state.items()}


def faults(
    given: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    required: Callable[[str], bool] = lambda name: True,
    shape: Callable[[str, Tensor], tuple[int, ...]] = lambda name, value: tuple(value.shape),
) -> str:
    """What keeps ``given`` from being the state of a network whose own is ``own``, for a message; nothing if it fits.

    What is not ``required`` may be missing or have another shape. ``shape`` is as much of that as must agree.
    """
    kinds = {
        "missing": [name for name in own if name not in given and required(name)],
        "unknown": [name for name in given if name not in own],
        "of another shape": [
            name
            for name, value in own.items()
            if name in given and required(name) and shape(name, given[name]) != shape(name, value)
        ],
    }
    kinds = {kind: [name for name in names if not name.endswith(COUNT)] for kind, names in kinds.items()}
    return ", ".join(f"{len(names)} {kind} (such as {names[0]})" for kind, names in kinds.items() if names)
