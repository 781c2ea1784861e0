"""A published model: a folder with its weights and a model card.

The weights are safetensors, the card is JSON: neither can execute code. The card contains the hash of the weights, so
that replaced or damaged weights are detected. The card itself is not protected: whoever changes it can change the hash.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from detseg.errors import CheckpointError

WEIGHTS, CARD = "model.safetensors", "card.json"
PREFIX = "model."  # of the model in a task's state dict; the folder leaves it out


def write(folder: Path, state_dict: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write the state dict of a task and its metadata, plain values, to ``folder``, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name.removeprefix(PREFIX): value.detach().cpu().contiguous() for name, value in state_dict.items()}
    save_file(tensors, folder / WEIGHTS)
    card = {**metadata, "sha256": _digest(folder / WEIGHTS)}
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    shutil.copymode(folder / CARD, folder / WEIGHTS)  # safetensors writes files that others cannot read


def read(folder: Path) -> dict[str, Any]:
    """Read the model in ``folder`` as the content of a checkpoint.

    Raises CheckpointError, naming the file, if one is missing, damaged, or was changed after it was published.
    """
    for file in (folder / CARD, folder / WEIGHTS):
        if not file.is_file():
            inside = ", ".join(map(str, sorted(folder.glob("*.ckpt"))))
            hint = f"pass one of {inside}" if inside else f"a published model has {CARD} and {WEIGHTS}"
            raise CheckpointError(f"{file}: no such file; {hint}")
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        expected = card["sha256"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(
            f"{folder / CARD}: damaged, or not the card of a published model; download it again"
        ) from error
    if _digest(folder / WEIGHTS) != expected:
        raise CheckpointError(
            f"{folder / WEIGHTS}: its sha256 differs from the one in {CARD}; download both files again"
        )
    try:
        tensors = load_file(folder / WEIGHTS)
    except Exception as error:
        raise CheckpointError(f"{folder / WEIGHTS}: damaged, or not weights: {error}") from error
    return {"state_dict": {f"{PREFIX}{name}": value for name, value in tensors.items()}, "detseg": card}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
