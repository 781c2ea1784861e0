"""Every network of timm, PyTorch Image Models."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detseg.configurable import WEIGHTS_IN_CHECKPOINT
from detseg.errors import CheckpointError, ConfigError
from detseg.modules.backbones.backbone import Backbone
from detseg.modules.backbones.convnet import check_stages
from detseg.modules.backbones.norm import Norm
from detseg.modules.backbones.weights import load_weights

USUALLY_FROZEN = 2  # as for the networks of our own
TRIAL = 128  # pixels of the image that is tried; the least that every network takes is below


class Timm(Backbone):
    """The feature maps of timm's network ``name``, such as ``resnet50`` or, of certain weights, ``resnet50.a1_in1k``.

    ``weights`` are "pretrained" for those that timm fetches for ``name``, the path of a file with a state dict of the
    whole network, or None. The other arguments are those of ``ConvNet``; which stages exist is up to the network.
    Images are normalised as timm says for ``name``.

    Raises ConfigError if timm is not installed or has no such network of feature maps for images of any size,
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
        maps = [index for index in last.values() if index <= last[self.stages[-1]]]  # the finer ones can be frozen
        network = _load(name, weights, maps)
        super().__init__(network.pretrained_cfg["mean"], network.pretrained_cfg["std"])
        self.network = _set_norm(network, self.norm)
        self.strides = [2**stage for stage in self.stages]
        last = {stage: maps.index(index) for stage, index in last.items() if index in maps}
        self.return_blocks = [last[stage] for stage in self.stages]
        channels = network.feature_info.channels()
        self.channels = [channels[index] for index in self.return_blocks]

        usual = min(USUALLY_FROZEN, self.stages[-1]) if weights else 0
        frozen = usual if frozen is None else frozen
        if not 0 <= frozen <= self.stages[-1]:
            raise ValueError(f"frozen {frozen}: there are {self.stages[-1]} stages to freeze; 0 freezes none")
        kept = self._needed([index for stage, index in last.items() if stage <= frozen])
        trained = self._needed(self.return_blocks) - kept  # what no map needs would wait for a gradient forever
        own = ((module, set(module.parameters(recurse=False))) for module in network.modules())
        self.freeze([module for module, parameters in own if parameters and not parameters & trained])

    @classmethod
    def variants(cls) -> list[dict[str, Any]]:
        """None: timm itself lists its networks."""
        return []

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
        maps = self.network(self.normalize(images, sizes))
        chosen = [maps[index] for index in self.return_blocks]
        if getattr(self.network, "output_fmt", "NCHW") == "NHWC":
            return [feature.permute(0, 3, 1, 2) for feature in chosen]
        return chosen

    def _needed(self, maps: Sequence[int]) -> set[nn.Parameter]:
        """The parameters that the maps with these indices depend on, whatever the network calls them."""
        if not maps:
            return set()
        training = self.network.training
        parameters = [value for value in self.network.parameters() if value.requires_grad]
        with torch.enable_grad():
            found = self.network.eval()(torch.zeros(1, 3, TRIAL, TRIAL, device=parameters[0].device))
            total = torch.stack([found[index].sum() for index in maps]).sum()
            gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        self.network.train(training)
        return {value for value, gradient in zip(parameters, gradients, strict=True) if gradient is not None}


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ConfigError("Timm: timm is not installed; pip install 'detseg[timm]'") from error


def _stages(name: str) -> dict[int, int]:
    """The index of the map of each stage of the network called ``name``: the last of its stride."""
    timm = _timm()
    known = {*timm.list_models(), *timm.list_models(pretrained=True)}
    if name not in known:
        near = difflib.get_close_matches(name, sorted(known))
        way_on = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() names all"
        raise ConfigError(f"{name}: timm has no such network; {way_on}")
    try:
        with torch.device("meta"):
            network = timm.create_model(name, features_only=True)
    except (AttributeError, RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise ConfigError(f"{name}: timm gives no feature maps of this network ({error}); choose another") from error
    if network.pretrained_cfg.get("fixed_input_size"):
        side = network.pretrained_cfg["input_size"][-1]
        raise ConfigError(f"{name}: takes images of {side} x {side} pixels alone, and a detector's have any size")
    info = network.feature_info
    strides = {index: int(stride) for index, stride in zip(info.out_indices, info.reduction(), strict=True)}
    with torch.device("meta"), torch.no_grad():
        maps = network.eval()(torch.zeros(1, 3, TRIAL, TRIAL))
    sides = [feature.shape[2] for feature in maps]  # in both layouts that timm has
    if any(stride.bit_count() != 1 for stride in strides.values()) or sides != [TRIAL // s for s in strides.values()]:
        raise ConfigError(
            f"{name}: its maps of {TRIAL} pixels have {', '.join(map(str, sides))}, where a detector needs a half, a "
            "quarter and so on; choose another"
        )
    return {stride.bit_length() - 1: index for index, stride in strides.items()}


def _load(name: str, weights: str | None, maps: Sequence[int]) -> Any:
    """The network that gives ``maps``, with its weights. Raises CheckpointError for weights that are none of it."""
    timm = _timm()
    settings: dict[str, Any] = {"features_only": True, "out_indices": tuple(maps)}
    if weights == "pretrained":
        if not timm.is_model_pretrained(name):
            raise CheckpointError(f"{weights}: timm has no weights of {name}, so give a file")
        try:
            return timm.create_model(name, pretrained=True, **settings)
        except Exception as error:  # of the network, the file system or the file: timm and its hub raise many
            raise CheckpointError(f"{weights}: timm could not fetch weights of {name}: {error}") from error
    if weights is None or weights == WEIGHTS_IN_CHECKPOINT:
        return timm.create_model(name, **settings)
    if not Path(weights).exists():
        there = "timm fetches its own as pretrained" if timm.is_model_pretrained(name) else "timm has none"
        raise CheckpointError(f"{weights}: neither a file nor weights of {name}; {there}")
    whole = timm.create_model(name)
    heads = whole.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else heads
    load_weights(whole, name, weights, lambda key: not key.startswith(tuple(f"{head}." for head in heads)))
    return timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay={"state_dict": whole.state_dict()}, **settings
    )


def _set_norm(network: nn.Module, norm: Norm) -> nn.Module:
    """As ``norm.set_norm``, with the layers of timm that are batch norm and activation in one."""
    layers = importlib.import_module("timm.layers")
    if norm == "frozen":
        return layers.freeze_batch_norm_2d(network)  # type: ignore[no-any-return]
    return layers.convert_sync_batchnorm(network) if norm == "sync" else network
