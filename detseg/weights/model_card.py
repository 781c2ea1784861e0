"""A network as it is handed to others: a folder with its weights, and a card that says all about them.

The weights are in safetensors' format, the card is JSON: nothing in them can be executed. The card has the hash of the
weights, so that other or damaged ones are noticed. Nothing guards the card itself: who changes it can change the hash.
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
PREFIX = "model."  # of the network's entries in a task's state dict; in the folder they have none


def write(folder: Path, state: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write the state dict of a task, and what is to be said about it, in plain values. Makes the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name.removeprefix(PREFIX): value.detach().cpu().contiguous() for name, value in state.items()}
    save_file(tensors, folder / WEIGHTS)
    card = {**about, "sha256": _digest(folder / WEIGHTS)}
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n")
    shutil.copymode(folder / CARD, folder / WEIGHTS)  # safetensors writes what nobody else may read


def read(folder: Path) -> dict[str, Any]:
    """What a checkpoint of the network in ``folder`` holds.

    Raises CheckpointError, naming it, for a file that is missing, damaged, or was changed after it was published.
    """
    for file in (folder / CARD, folder / WEIGHTS):
        if not file.is_file():
            inside = ", ".join(map(str, sorted(folder.glob("*.ckpt"))))
            way_on = f"give one of {inside}" if inside else f"a folder of `detseg publish` has {CARD} and {WEIGHTS}"
            raise CheckpointError(f"{file}: no such file; {way_on}")
    try:
        card = json.loads((folder / CARD).read_text())
        expected = card["sha256"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(
            f"{folder / CARD}: damaged, or not the card of a published network; get it again"
        ) from error
    if _digest(folder / WEIGHTS) != expected:
        raise CheckpointError(
            f"{folder / WEIGHTS}: its sha256 is not that in {CARD}: it was changed or damaged; get both files again"
        )
    try:
        tensors = load_file(folder / WEIGHTS)
    except Exception as error:
        raise CheckpointError(f"{folder / WEIGHTS}: damaged, or no weights: {error}") from error
    return {"state_dict": {f"{PREFIX}{name}": value for name, value in tensors.items()}, "detseg": card}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
