"""Pretrained weights: by torchvision's names, from files, and from checkpoints of our own classifiers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torchvision
from torch import Tensor, nn

from detseg.configurable import WEIGHTS_IN_CHECKPOINT
from detseg.errors import CheckpointError
from detseg.weights.state_dict import COUNT, fetch, read_weights, state_dict_mismatch

PARTS = ("model.backbone.", "model.head.", "model.auxiliary.")  # of a classifier, in the state of its task

# DenseNet was published when names of layers could hold a dot: denselayer1.norm.1.weight is norm1.weight now.
DOTTED = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.(\d\.)")


def load_weights(network: nn.Module, name: str, weights: str | None, required: Callable[[str], bool]) -> list[str]:
    """Load ImageNet ``weights`` into the whole ``network``, classifier and all, that is called ``name``.

    ``weights`` is a name of torchvision's (``IMAGENET1K_V1``; fetched, with its hash checked), the path of a state
    dict (``.safetensors``, or what ``torch.save`` wrote) or of a checkpoint of a classifier that was trained here, or
    None to leave the network as it is. What is not ``required`` may be missing or, since it depends on the classes, of
    another shape: it stays as it is, and its names are returned.

    Raises CheckpointError, naming the file and the keys, if the state dict is not one of this network.
    """
    if weights is None or weights == WEIGHTS_IN_CHECKPOINT:
        return []
    own = network.state_dict()
    state = {DOTTED.sub(r"\1\2", key): value for key, value in _read(name, weights).items() if not key.endswith(COUNT)}
    if said := state_dict_mismatch(state, own, required):
        raise CheckpointError(f"{weights}: these are not weights of {name}: {said}")
    fitting = {key: value for key, value in state.items() if own[key].shape == value.shape}
    network.load_state_dict(fitting, strict=False)
    return [key for key in own if key not in fitting and not key.endswith(COUNT)]


def published(name: str) -> list[str]:
    """The names of the weights that torchvision has for the network called ``name``."""
    if name not in torchvision.models.list_models(module=torchvision.models):
        return []
    return list(torchvision.models.get_model_weights(name).__members__)


def _read(name: str, weights: str) -> dict[str, Tensor]:
    choices = published(name)
    if weights in choices:
        return fetch(torchvision.models.get_model_weights(name)[weights])
    if not Path(weights).exists():
        there = f"torchvision has {', '.join(choices)}" if choices else "torchvision has none, so give a file"
        raise CheckpointError(f"{weights}: neither a file nor weights of {name}; {there}")
    content = read_weights(weights)
    if "detseg" in content:
        return {_part(key): value for key, value in content["state_dict"].items()}
    return content


def _part(key: str) -> str:
    """The name that a tensor of a classifier has in the network as it was published."""
    return next((key.removeprefix(part) for part in PARTS if key.startswith(part)), key)
