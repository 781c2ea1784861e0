"""Base class of the networks that were published as ImageNet classifiers, cut at the changes of stride."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from detseg.kernels.folded_norm import fold
from detseg.modules.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone
from detseg.modules.backbones.norm import Norm, set_norm
from detseg.modules.backbones.weights import load_weights
from detseg.modules.eval_mode import eval_mode

log = logging.getLogger(__name__)


class ConvNet(Backbone, ABC):
    """A sequence of blocks followed by a classifier.

    A subclass defines ``build``, ``head``, ``layer_names`` and ``return_layers``.

    Stage s contains the layers of stride 2 ** s. The last maps of ``stages`` are returned, and the network ends with
    the last of them: ``[2, 3, 4, 5]`` for a feature pyramid, ``[4]`` for a single map. Stages up to ``frozen`` do not
    train, 0 for none. By default networks with ``weights`` (see ``load_weights``) freeze the stages up to
    ``default_frozen`` and every batch norm, since detection batches are too small to estimate statistics; networks
    without weights train everything. ``norm`` overrides this: "frozen", "batch", or "sync" over all devices. ``eps``
    is added to the variance in batch norm, by default the published value.

    Networks that do not pad their convolutions and poolings give maps that are smaller than H / stride and shifted. So
    that cell (i, j) lies over the pixels (i, j) x stride, the input of the blocks in ``padding`` is padded. Classifiers
    have no such need: ``classifier_features`` follows the arithmetic of the paper. The last stage ends with the last
    block.

    Raises ValueError for stages that do not exist, CheckpointError for weights that do not fit.
    """

    layer_names: ClassVar[Sequence[str]]  # children of the network in order; a Sequential counts as its blocks
    return_layers: Mapping[int, str]  # stage -> its last block, or Sequential of blocks
    auxiliary_inputs: ClassVar[Mapping[str, str]] = {}  # auxiliary classifier, for training -> block before it
    padding: Mapping[str, tuple[int, int]] = {}  # block -> pixels before and after its input, on both axes
    default_frozen: ClassVar[int] = 2
    image_mean: ClassVar[Sequence[float]] = IMAGENET_MEAN
    image_std: ClassVar[Sequence[float]] = IMAGENET_STD
    missing_head_tensors: Sequence[str] = ()  # of the last ``classifier``: not in ``weights``

    def __init__(
        self,
        name: str,
        weights: str | None,
        stages: Sequence[int],
        frozen: int | None,
        norm: Norm | None = None,
        eps: float | None = None,
    ) -> None:
        super().__init__(self.image_mean, self.image_std)
        choices = [variant["name"] for variant in self.variants() if "name" in variant]
        if choices and name not in choices:  # a checkpoint may contain anything
            raise ValueError(f"name {name}: choose among {', '.join(choices)}")
        self.name, self.weights = name, weights
        self.norm: Norm = norm or ("frozen" if weights else "batch")
        self.stages = check_stages(stages, self.return_layers)

        network = self.build(num_classes=1000)
        blocks = dict(self._blocks(network))
        names = list(blocks)
        last = {
            stage: [name for name in names if f"{name}.".startswith(f"{layer}.")][-1]
            for stage, layer in self.return_layers.items()
        }
        names = names[: names.index(last[self.stages[-1]]) + 1]
        self._load(network, blocks)
        for block in names:
            _place(self, block, network.get_submodule(block))
        self.block_names = names
        if eps is not None:
            self.set_eps(eps)
        self.strides = [2**stage for stage in self.stages]
        self.return_blocks = [last[stage] for stage in self.stages]
        if self.norm == "frozen":
            fold(self, self._channels)
        self.channels = self._channels()

        default = min(self.default_frozen, self.stages[-1]) if weights else 0
        frozen = default if frozen is None else frozen
        if not 0 <= frozen <= self.stages[-1]:
            raise ValueError(f"frozen {frozen}: there are {self.stages[-1]} stages to freeze; 0 freezes none")
        ends = [names.index(last[stage]) + 1 for stage in self.return_layers if stage <= frozen]
        self.freeze([self.get_submodule(block) for block in names[: max(ends, default=0)]])

    @abstractmethod
    def build(self, num_classes: int) -> nn.Module:
        """Build the published network, a classifier of ``num_classes`` classes, with random weights."""

    @abstractmethod
    def head(self, network: Any) -> dict[str, nn.Module]:
        """Return the layers of ``network`` from the last map to the logits, by their names in it."""

    def forward(self, images: Tensor, image_sizes: Tensor | None = None) -> list[Tensor]:
        return self.forward_intermediates(images, self.return_blocks, image_sizes)

    def classifier_features(self, images: Tensor) -> Tensor:
        return self.forward_intermediates(images, self.return_blocks[-1:], stride_aligned=False)[0]

    def forward_intermediates(
        self, images: Tensor, after: Sequence[str], image_sizes: Tensor | None = None, stride_aligned: bool = True
    ) -> list[Tensor]:
        """Compute the outputs of the blocks called ``after``, in the order of the network, from images as ``forward``.

        ``stride_aligned`` pads the inputs of the blocks in ``padding``, as detectors need it.
        """
        features: list[Tensor] = []
        x = self.normalize(images, image_sizes)
        for name in self.block_names:
            block = self.get_submodule(name)
            if features and getattr(block, "inplace", False) and x is features[-1]:
                x = x.clone()
            if stride_aligned and name in self.padding:
                before, behind = self.padding[name]
                x = F.pad(x, (before, behind, before, behind))
            x = block(x)
            if name in after:
                features.append(x)
                if len(features) == len(after):
                    break
        return features

    def classifier(self, num_classes: int) -> tuple[nn.Sequential, dict[str, nn.Module]]:
        """Build the layers from the last map to the logits, and the auxiliary classifiers by name.

        They have the backbone's weights, except layers for another number of classes.

        Raises ValueError unless the backbone ends with the last stage.
        """
        if self.stages[-1] != max(self.return_layers):
            raise ValueError(f"a classifier needs the whole network: stages must end with {max(self.return_layers)}")
        network = self.build(num_classes)
        missing = self._load(network, dict(self._blocks(network)))
        if missing:
            log.info("%s: weights %s have no %s: at random", self.name, self.weights, ", ".join(missing))
        parts = self.head(network)
        self.missing_head_tensors = [key for key in missing if key.partition(".")[0] in parts]
        head = nn.Sequential(OrderedDict(parts))
        return head, {name: network.get_submodule(name) for name in self.auxiliary_inputs}

    def set_eps(self, eps: float) -> None:
        """Set ``eps`` of every batch norm, also for the network that a checkpoint rebuilds."""
        for layer in self.modules():
            if isinstance(layer, (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)):
                layer.eps = eps
        self.init_args["eps"] = eps

    def _load(self, network: nn.Module, blocks: Mapping[str, nn.Module]) -> list[str]:
        set_norm(network, self.norm)
        return load_weights(
            network, self.name, self.weights, lambda key: key.startswith(tuple(f"{b}." for b in blocks))
        )

    def _blocks(self, network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        for name in self.layer_names:
            yield from _expand(name, network.get_submodule(name))

    @torch.no_grad()
    def _channels(self) -> list[int]:
        device = next(self.parameters()).device
        with eval_mode(self):
            return [x.shape[1] for x in self(torch.zeros(1, 3, 64, 64, dtype=torch.uint8, device=device))]


def check_stages(stages: Sequence[int], return_layers: Collection[int]) -> list[int]:
    """Sort ``stages``. Raises ValueError, listing the choices, if there are none or one does not exist."""
    if not stages or not set(stages) <= set(return_layers):
        raise ValueError(f"stages {list(stages)}: choose among {', '.join(map(str, return_layers))}")
    return sorted(set(stages))


def _expand(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    if not isinstance(module, nn.Sequential):
        yield name, module
        return
    for child, inner in module.named_children():
        yield from _expand(f"{name}.{child}", inner)


def _place(root: nn.Module, name: str, module: nn.Module) -> None:
    """Add ``module`` under its dotted ``name``, so that its tensors keep their published names."""
    *parents, leaf = name.split(".")
    for parent in parents:
        if not hasattr(root, parent):
            root.add_module(parent, nn.Sequential())
        root = getattr(root, parent)
    root.add_module(leaf, module)
