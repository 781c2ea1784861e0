"""Networks of timm (PyTorch Image Models) as backbones."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detseg.configurable import WEIGHTS_IN_CHECKPOINT
from detseg.errors import PASS_FILE, CheckpointError, ConfigError
from detseg.modules.backbones.backbone import Backbone
from detseg.modules.backbones.convnet import check_stages
from detseg.modules.backbones.norm import Norm
from detseg.modules.backbones.weights import load_weights
from detseg.modules.eval_mode import eval_mode

DEFAULT_FROZEN = 2  # as in ``ConvNet``
TRIAL_SIZE = 128  # side of the image that measures the maps; every network takes images of this size


class Timm(Backbone):
    """timm's network ``name``, such as ``resnet50`` or, with a tag for certain weights, ``resnet50.a1_in1k``.

    ``weights`` is "pretrained" for timm's weights of ``name``, the path of a state dict of the whole network, or None.
    The other arguments are those of ``ConvNet``; the stages depend on the network. Images are normalised with timm's
    values for ``name``.

    Raises ConfigError if timm is not installed or has no such network with feature maps for images of any size,
    CheckpointError for weights that do not exist or do not fit, ValueError for stages that do not exist.
    """

    def __init__(
        self,
        name: str,
        weights: str | None = None,
        stages: Sequence[int] = (2, 3, 4, 5),
        frozen: int | None = None,
        norm: Norm | None = None,
    ) -> None:
        last = _stages(name)
        self.name, self.weights = name, weights
        self.norm: Norm = norm or ("frozen" if weights else "batch")
        self.stages = check_stages(stages, last)
        maps = [index for index in last.values() if index <= last[self.stages[-1]]]  # finer ones can be frozen
        network = _load(name, weights, maps)
        super().__init__(network.pretrained_cfg["mean"], network.pretrained_cfg["std"])
        self.network = _set_norm(network, self.norm)
        self.strides = [2**stage for stage in self.stages]
        last = {stage: maps.index(index) for stage, index in last.items() if index in maps}
        self._map_indices = [last[stage] for stage in self.stages]
        channels = network.feature_info.channels()
        self.channels = [channels[index] for index in self._map_indices]

        default = min(DEFAULT_FROZEN, self.stages[-1]) if weights else 0
        frozen = default if frozen is None else frozen
        if not 0 <= frozen <= self.stages[-1]:
            raise ValueError(f"frozen {frozen}: there are {self.stages[-1]} stages to freeze; 0 freezes none")
        untrained = self._used_parameters([index for stage, index in last.items() if stage <= frozen])
        trained = self._used_parameters(self._map_indices) - untrained  # unused ones get no gradient
        parameters = ((module, set(module.parameters(recurse=False))) for module in network.modules())
        self.freeze([module for module, direct in parameters if direct and not direct & trained])

    @classmethod
    def variants(cls) -> list[dict[str, Any]]:
        """Return an empty list: timm lists its networks itself."""
        return []

    def forward(self, images: Tensor, image_sizes: Tensor | None = None) -> list[Tensor]:
        maps = self.network(self.normalize(images, image_sizes))
        chosen = [maps[index] for index in self._map_indices]
        if getattr(self.network, "output_fmt", "NCHW") == "NHWC":
            return [feature.permute(0, 3, 1, 2) for feature in chosen]
        return chosen

    def _used_parameters(self, maps: Sequence[int]) -> set[nn.Parameter]:
        """Collect the parameters that the maps with these indices depend on."""
        if not maps:
            return set()
        parameters = [value for value in self.network.parameters() if value.requires_grad]
        with torch.enable_grad(), eval_mode(self.network):
            features = self.network(torch.zeros(1, 3, TRIAL_SIZE, TRIAL_SIZE, device=parameters[0].device))
            total = torch.stack([features[index].sum() for index in maps]).sum()
            gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        return {value for value, gradient in zip(parameters, gradients, strict=True) if gradient is not None}


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ConfigError("Timm: timm is not installed; pip install 'detseg[timm]'") from error


def _stages(name: str) -> dict[int, int]:
    """Map each stage of the network called ``name`` to the index of its last map."""
    timm = _timm()
    known = {*timm.list_models(), *timm.list_models(pretrained=True)}
    if name not in known:
        near = difflib.get_close_matches(name, sorted(known))
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() lists all"
        raise ConfigError(f"{name}: timm has no such network; {hint}")
    try:
        with torch.device("meta"):
            network = timm.create_model(name, features_only=True)
    except (AttributeError, RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise ConfigError(f"{name}: timm returns no feature maps of this network ({error}); choose another") from error
    if network.pretrained_cfg.get("fixed_input_size"):
        side = network.pretrained_cfg["input_size"][-1]
        raise ConfigError(f"{name}: takes only images of {side} x {side} pixels; choose one for any size")
    info = network.feature_info
    strides = {index: int(stride) for index, stride in zip(info.out_indices, info.reduction(), strict=True)}
    with torch.device("meta"), torch.no_grad():
        maps = network.eval()(torch.zeros(1, 3, TRIAL_SIZE, TRIAL_SIZE))
    sides = [feature.shape[2] for feature in maps]  # in both of timm's layouts
    expected = [TRIAL_SIZE // stride for stride in strides.values()]
    if any(stride.bit_count() != 1 for stride in strides.values()) or sides != expected:
        raise ConfigError(
            f"{name}: its maps of {TRIAL_SIZE} pixels have {', '.join(map(str, sides))} cells on a side; choose a "
            "network that halves the size from map to map"
        )
    return {stride.bit_length() - 1: index for index, stride in strides.items()}


def _load(name: str, weights: str | None, maps: Sequence[int]) -> Any:
    """Create the network that returns ``maps``, with its weights. Raises CheckpointError if they do not fit."""
    timm = _timm()
    settings: dict[str, Any] = {"features_only": True, "out_indices": tuple(maps)}
    if weights == "pretrained":
        if not timm.is_model_pretrained(name):
            raise CheckpointError(f"{weights}: timm has no weights of {name}, so pass a file")
        try:
            return timm.create_model(name, pretrained=True, **settings)
        except Exception as error:  # timm and its hub raise many types for the network, the file system and the file
            raise CheckpointError(
                f"{weights}: timm could not fetch weights of {name}: {error}; {PASS_FILE}, or null for random weights"
            ) from error
    if weights is None or weights == WEIGHTS_IN_CHECKPOINT:
        return timm.create_model(name, **settings)
    if not Path(weights).exists():
        hint = "timm downloads its own with weights: pretrained" if timm.is_model_pretrained(name) else "timm has none"
        raise CheckpointError(f"{weights}: neither a file nor weights of {name}; {hint}")
    whole = timm.create_model(name)
    heads = whole.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else heads
    load_weights(whole, name, weights, lambda key: not key.startswith(tuple(f"{head}." for head in heads)))
    return timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay={"state_dict": whole.state_dict()}, **settings
    )


def _set_norm(network: nn.Module, norm: Norm) -> nn.Module:
    """Apply ``norm.set_norm`` to timm's layers, some of which combine batch norm and activation."""
    layers = importlib.import_module("timm.layers")
    if norm == "frozen":
        return layers.freeze_batch_norm_2d(network)  # type: ignore[no-any-return]
    return layers.convert_sync_batchnorm(network) if norm == "sync" else network
