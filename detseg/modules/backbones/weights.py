"""Pretrained weights of backbones: by torchvision's names, from files, and from checkpoints of classifiers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torchvision
from torch import Tensor, nn

from detseg.configurable import WEIGHTS_IN_CHECKPOINT
from detseg.errors import CheckpointError
from detseg.weights.state_dict import COUNT, fetch, read_weights, state_dict_mismatch

CLASSIFIER_PREFIX = re.compile(r"^model\.(backbone|head|auxiliary)\.")  # in the state dict of a task

# DenseNet's weights are older than torch's ban of dots in layer names: denselayer1.norm.1.weight is norm1.weight now.
DOTTED_NAME = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.(\d\.)")


def load_weights(network: nn.Module, name: str, weights: str | None, required: Callable[[str], bool]) -> list[str]:
    """Load ImageNet ``weights`` into the classifier ``network`` called ``name``.

    ``weights`` is one of torchvision's names (``IMAGENET1K_V1``; downloaded, with its hash checked), the path of a
    state dict (``.safetensors``, or from ``torch.save``) or of a classifier's checkpoint, or None to change nothing.
    Tensors that are not ``required`` may be missing or, for another number of classes, of another shape: they stay as
    they are, and their names are returned.

    Raises CheckpointError, naming the file and the keys, if the state dict does not fit the network.
    """
    if weights is None or weights == WEIGHTS_IN_CHECKPOINT:
        return []
    expected = network.state_dict()
    published_items = ((key, value) for key, value in _read(name, weights).items() if not key.endswith(COUNT))
    state_dict = {DOTTED_NAME.sub(r"\1\2", key): value for key, value in published_items}
    if mismatch := state_dict_mismatch(state_dict, expected, required):
        raise CheckpointError(f"{weights}: not weights of {name}: {mismatch}")
    fitting = {key: value for key, value in state_dict.items() if expected[key].shape == value.shape}
    network.load_state_dict(fitting, strict=False)
    return [key for key in expected if key not in fitting and not key.endswith(COUNT)]


def published(name: str) -> list[str]:
    """List the names of torchvision's weights of the network called ``name``."""
    if name not in torchvision.models.list_models(module=torchvision.models):
        return []
    return list(torchvision.models.get_model_weights(name).__members__)


def _read(name: str, weights: str) -> dict[str, Tensor]:
    choices = published(name)
    if weights in choices:
        return fetch(torchvision.models.get_model_weights(name)[weights])
    if not Path(weights).exists():
        hint = f"torchvision has {', '.join(choices)}" if choices else "torchvision has none, so pass a file"
        raise CheckpointError(f"{weights}: neither a file nor weights of {name}; {hint}")
    content = read_weights(weights)
    if "detseg" in content:
        return {CLASSIFIER_PREFIX.sub("", key): value for key, value in content["state_dict"].items()}
    return content
