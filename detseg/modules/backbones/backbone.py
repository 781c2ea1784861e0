"""What every backbone is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from detseg.errors import CheckpointError
from detseg.recipe import IN_CHECKPOINT, Recipe

Norm = Literal["frozen", "batch", "sync"]

NORMS: dict[Norm, type[nn.Module]] = {
    "frozen": FrozenBatchNorm2d,
    "batch": nn.BatchNorm2d,
    "sync": nn.SyncBatchNorm,
}

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Backbone(nn.Module, Recipe):
    """Turns images into feature maps, fine to coarse.

    ``channels`` and ``strides`` say what the maps are: the i-th is (B, channels[i], H / strides[i], W / strides[i]).
    The mean and the deviation that images are normalised with belong to the backbone, because its weights were trained
    with them; images arrive as uint8.
    """

    channels: list[int]
    strides: list[int]
    extra = 0  # how many of the coarsest maps are for anchors alone, and no region's features come from

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        self._frozen: list[nn.Module] = []
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(3, 1, 1), persistent=False)

    def normalize(self, images: Tensor, sizes: Tensor | None) -> Tensor:
        """Normalise images (B, 3, H, W), uint8, and blank what lies outside ``sizes`` (B, 2) (None: nothing does).

        Padding must be zero after the normalisation, or its edge would look like an edge of the picture.
        """
        normal = (images - self.mean) / self.std
        if sizes is None:
            return normal
        height, width = (torch.arange(length, device=images.device) for length in images.shape[-2:])
        inside = (height[:, None] < sizes[:, 0, None, None]) & (width < sizes[:, 1, None, None])
        return normal * inside[:, None]

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
        """Images (B, 3, H, W), uint8, of ``sizes`` (B, 2) inside their padding, to one map a stride."""
        raise NotImplementedError

    def freeze(self, modules: Sequence[nn.Module]) -> None:
        """Keep ``modules`` as they are: no gradient, and batch norm in evaluation mode whatever ``train`` says."""
        self._frozen = list(modules)
        for module in modules:
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self


def known_stages(stages: Sequence[int], known: range) -> list[int]:
    """``stages`` in order. Raises ValueError, naming those that there are, if others are among them, or none at all."""
    if not stages or not set(stages) <= set(known):
        raise ValueError(f"stages {list(stages)}: choose among {', '.join(map(str, known))}")
    return sorted(set(stages))


def known_frozen(frozen: int | None, weights: str | None, stages: int) -> int:
    """How many stages do not train: ``frozen``, or two of a pretrained network.

    Raises ValueError if there are not so many.
    """
    frozen = frozen if frozen is not None else 2 if weights else 0
    if not 0 <= frozen <= stages:
        raise ValueError(f"frozen {frozen}: there are {stages} stages, the stem being the first; 0 freezes none")
    return frozen


def known_norm(norm: Norm | None, weights: str | None) -> type[nn.Module]:
    """The layer called ``norm``; by default that of pretrained networks is frozen, and others train theirs."""
    return NORMS[norm or ("frozen" if weights else "batch")]


def load_weights(network: nn.Module, name: str, weights: str | None) -> None:
    """Load ImageNet ``weights`` into the torchvision ``network`` called ``name``.

    ``weights`` is a name of torchvision's (``IMAGENET1K_V1``; fetched, with its hash checked), the path of a state
    dict (``.safetensors``, or what ``torch.save`` wrote), or None to leave the network as it is. A file may lack the
    classifier, which no detector uses.

    Raises CheckpointError, naming the file and the keys, if the state dict is not one of this network.
    """
    if weights is None or weights == IN_CHECKPOINT:
        return
    state = _read_weights(name, weights)
    # The classifier's shape depends on the classes it was trained for, and nothing here reads it.
    own = network.state_dict()
    state = {key: value for key, value in state.items() if not key.startswith(("fc.", "classifier."))}
    missing = [key for key in own if key not in state and not key.startswith(("fc.", "classifier."))]
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own and not key.endswith("num_batches_tracked")]
    wrong = [key for key in state if key in own and own[key].shape != state[key].shape]
    if missing or unexpected or wrong:
        faults = ", ".join(
            f"{len(keys)} {kind} (such as {keys[0]})"
            for kind, keys in (("missing", missing), ("unknown", unexpected), ("of another shape", wrong))
            if keys
        )
        raise CheckpointError(f"{weights}: these are not weights of {name}: {faults}")
    network.load_state_dict(state, strict=False)


def _read_weights(name: str, weights: str) -> dict[str, Any]:
    choices = torchvision.models.get_model_weights(name)
    if weights in choices.__members__:
        state: dict[str, Any] = choices[weights].get_state_dict(check_hash=True, progress=True)
        return state
    if not Path(weights).is_file():
        raise CheckpointError(
            f"{weights}: neither a file nor weights of {name}; torchvision has {', '.join(choices.__members__)}"
        )
    try:
        if weights.endswith(".safetensors"):
            state = load_file(weights)
        else:
            state = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{weights}: not a state dict that can be read safely: {error}") from error
    if not (isinstance(state, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())):
        raise CheckpointError(f"{weights}: not a state dict, which has the names of tensors and the tensors alone")
    return state
