"""State dicts: read from untrusted files and compared with the model that loads them.

Files are read with ``weights_only=True``: tensors and plain values, no code.
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
from detseg.errors import PASS_FILE, CheckpointError, explain_content
from detseg.weights import checkpoint_file, model_card

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

COUNT = "num_batches_tracked"  # only trainable batch norm has it, and no computation reads it


def read(path: str | Path) -> dict[str, Any]:
    """Read a file of ``torch.save`` or safetensors, or the folder of a published model, onto the CPU.

    Raises CheckpointError, naming the file, if it is missing, damaged, or holds more than tensors and plain values.
    """
    if Path(path).is_dir():
        return translate_checkpoint(model_card.read(Path(path)))
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        if Path(path).suffix == ".safetensors":
            return load_file(path)
        checkpoint_file.check(Path(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickle protocols; unreadable files raise
            content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # the file may hold anything
        named = re.search(r"(?:GLOBAL|Unsupported class) (\S+)", str(error))
        if named:
            raise CheckpointError(
                f"{path}: holds {named[1]}, and only tensors and plain values are read, since anything else could run "
                "code; save only its state_dict"
            ) from error
        damaged = "damaged, truncated, or not a checkpoint; download it again, or pass another file"
        raise CheckpointError(f"{path}: {explain_content(Path(path)) or damaged}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a checkpoint")
    return translate_checkpoint(content)


def fetch(choice: WeightsEnum) -> dict[str, Any]:
    """Load torchvision's published weights from its cache or the network. Raises CheckpointError if both fail."""
    try:
        return choice.get_state_dict(check_hash=True, progress=True)  # type: ignore[no-any-return]
    except (OSError, RuntimeError) as error:  # RuntimeError for a wrong hash
        raise CheckpointError(
            f"could not fetch {choice.url}: {error}; {PASS_FILE}, or null for random weights"
        ) from error


def read_weights(path: str | Path) -> dict[str, Any]:
    """Read a file as ``read``, which must be a state dict or a detseg checkpoint with one in it.

    Raises CheckpointError for anything else too.
    """
    content = read(path)
    state = content.get("state_dict") if "detseg" in content else content
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise CheckpointError(f"{path}: not a state dict, which maps names to tensors")
    other = next((name for name, value in state.items() if not isinstance(value, Tensor)), None)
    if other is not None:
        raise CheckpointError(
            f"{path}: not a state dict: {other} is not a tensor; save the model's state dict by itself"
        )
    return content


def model_state_dict(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the state dict of a model from the content of a file, which may be a checkpoint of its task."""
    state = content["state_dict"] if "detseg" in content else content
    return {name.removeprefix(model_card.PREFIX): value for name, value in state.items()}


def state_dict_mismatch(
    state_dict: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    required: Callable[[str], bool] = lambda name: True,
    shape: Callable[[str, Tensor], tuple[int, ...]] = lambda name, value: tuple(value.shape),
) -> str:
    """List missing, unexpected and mismatched keys for a message; empty if the state dict fits.

    Tensors that are not ``required`` may be missing or have another shape; ``shape`` returns the sizes that must agree.
    """
    mismatch = {
        "missing": [name for name in expected if name not in state_dict and required(name)],
        "unexpected": [name for name in state_dict if name not in expected],
        "of another shape": [
            name
            for name, value in expected.items()
            if name in state_dict and required(name) and shape(name, state_dict[name]) != shape(name, value)
        ],
    }
    mismatch = {reason: [name for name in names if not name.endswith(COUNT)] for reason, names in mismatch.items()}
    return ", ".join(f"{len(names)} {reason} (such as {names[0]})" for reason, names in mismatch.items() if names)
