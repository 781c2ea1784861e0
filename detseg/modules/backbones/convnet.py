"""The networks that were born as ImageNet classifiers, cut where the stride changes."""

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

log = logging.getLogger(__name__)


class ConvNet(Backbone, ABC):
    """A chain of blocks that ends in a classifier. A subclass says which: ``build``, ``chain``, ``taps``, ``head``.

    Stage s is what the network computes at stride 2 ** s; its map is the last one. ``stages`` are the ones whose maps
    are returned, and the network ends with the last of them: ``[2, 3, 4, 5]`` for a feature pyramid, ``[4]`` for a
    single map. ``frozen`` is the last stage that does not train, 0 for none. By default networks with ``weights`` (see
    ``load_weights``) keep the stages up to ``default_frozen`` and the statistics and scales of every batch norm as they
    are, as is usual since a batch of detection is too small to estimate them; networks without train everything.
    ``norm`` says otherwise: "frozen", "batch", or "sync" over all devices. ``eps`` is what batch norm adds to the
    variance, by default as it was published.

    Networks that do not pad their convolutions and poolings give maps that are smaller than H / stride and shifted. So
    that cell (i, j) lies over the pixels (i, j) x stride, the input of the blocks in ``padding`` is padded. Classifiers
    have no such need: ``classifier_features`` follows the arithmetic of the paper. The last stage ends with the last
    block.

    Raises ValueError for stages that do not exist, CheckpointError for weights that do not fit.
    """

    layer_names: ClassVar[
        Sequence[str]
    ]  # children of the network in the order they run; a Sequential is so many blocks
    return_layers: Mapping[int, str]  # the last block, or Sequential of blocks, of each stage
    auxiliary_inputs: ClassVar[
        Mapping[str, str]
    ] = {}  # classifiers at the side, for training: child -> block before it
    padding: Mapping[str, tuple[int, int]] = {}  # of the input of blocks: pixels before and after, in both directions
    default_frozen: ClassVar[int] = 2
    missing_head_tensors: Sequence[str] = ()  # tensors of the last ``classifier`` that ``weights`` do not have

    def __init__(
        self,
        name: str,
        weights: str | None,
        stages: Sequence[int],
        frozen: int | None,
        norm: Norm | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        eps: float | None = None,
    ) -> None:
        super().__init__(mean, std)
        known = [variant["name"] for variant in self.variants() if "name" in variant]
        if known and name not in known:  # a checkpoint may say anything
            raise ValueError(f"{name}: there is {', '.join(known)}")
        self.name, self.weights = name, weights
        self.norm: Norm = norm or ("frozen" if weights else "batch")
        self.stages = check_stages(stages, self.return_layers)

        network = self.build(num_classes=1000)
        blocks = dict(self._blocks(network))
        last = {stage: _last(blocks, tap) for stage, tap in self.return_layers.items()}
        names = list(blocks)
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

        usual = min(self.default_frozen, self.stages[-1]) if weights else 0
        frozen = usual if frozen is None else frozen
        if not 0 <= frozen <= self.stages[-1]:
            raise ValueError(f"frozen {frozen}: there are {self.stages[-1]} stages to freeze; 0 freezes none")
        kept = [names.index(last[stage]) + 1 for stage in self.return_layers if stage <= frozen]
        self.freeze([self.get_submodule(block) for block in names[: max(kept, default=0)]])

    @abstractmethod
    def build(self, num_classes: int) -> nn.Module:
        """The whole network as it was published, a classifier of ``num_classes`` classes, with random weights."""

    @abstractmethod
    def head(self, network: Any) -> dict[str, nn.Module]:
        """The layers of the whole ``network`` that make logits of the last map, by their names in it."""

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
        return self.forward_intermediates(images, self.return_blocks, sizes)

    def classifier_features(self, images: Tensor) -> Tensor:
        return self.forward_intermediates(images, self.return_blocks[-1:], stride_aligned=False)[0]

    def forward_intermediates(
        self, images: Tensor, after: Sequence[str], sizes: Tensor | None = None, stride_aligned: bool = True
    ) -> list[Tensor]:
        """Compute the outputs of the blocks called ``after``, in the order of the network, from images as ``forward``.

        ``stride_aligned`` pads the inputs of the blocks in ``padding``, as detectors need it.
        """
        found: list[Tensor] = []
        x = self.normalize(images, sizes)
        for name in self.block_names:
            block = self.get_submodule(name)
            if found and getattr(block, "inplace", False) and x is found[-1]:
                x = x.clone()
            if stride_aligned and name in self.padding:
                before, behind = self.padding[name]
                x = F.pad(x, (before, behind, before, behind))
            x = block(x)
            if name in after:
                found.append(x)
                if len(found) == len(after):
                    break
        return found

    def classifier(self, num_classes: int) -> tuple[nn.Sequential, dict[str, nn.Module]]:
        """What makes logits of the last map, and the classifiers at the side by their names.

        With the backbone's weights, as far as they are for so many classes.

        Raises ValueError if the backbone has been cut short.
        """
        if self.stages[-1] != max(self.return_layers):
            raise ValueError(f"a classifier needs the whole network: stages must end with {max(self.return_layers)}")
        network = self.build(num_classes)
        left = self._load(network, dict(self._blocks(network)))
        if left:
            log.info("%s: weights %s have no %s: at random", self.name, self.weights, ", ".join(left))
        parts = self.head(network)
        self.missing_head_tensors = [key for key in left if key.partition(".")[0] in parts]
        head = nn.Sequential(OrderedDict(parts))
        return head, {name: network.get_submodule(name) for name in self.auxiliary_inputs}

    def set_eps(self, eps: float) -> None:
        """Let every batch norm add ``eps`` to the variance, also in the network that a checkpoint rebuilds."""
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
        training = self.training
        device = next(self.parameters()).device
        maps = self.eval()(torch.zeros(1, 3, 64, 64, dtype=torch.uint8, device=device))
        self.train(training)
        return [feature.shape[1] for feature in maps]


def check_stages(stages: Sequence[int], return_layers: Collection[int]) -> list[int]:
    """``stages`` in order. Raises ValueError, naming those that there are, if others are among them, or none at all."""
    if not stages or not set(stages) <= set(return_layers):
        raise ValueError(f"stages {list(stages)}: choose among {', '.join(map(str, taps))}")
    return sorted(set(stages))


def _expand(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    if not isinstance(module, nn.Sequential):
        yield name, module
        return
    for child, inner in module.named_children():
        yield from _expand(f"{name}.{child}", inner)


def _last(blocks: Mapping[str, nn.Module], tap: str) -> str:
    return [name for name in blocks if name == tap or name.startswith(f"{tap}.")][-1]


def _place(root: nn.Module, name: str, module: nn.Module) -> None:
    """Add ``module`` under its dotted ``name``, so that its tensors keep the names that they were published with."""
    *parents, leaf = name.split(".")
    for parent in parents:
        if not hasattr(root, parent):
            root.add_module(parent, nn.Sequential())
        root = getattr(root, parent)
    root.add_module(leaf, module)
