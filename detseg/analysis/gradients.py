"""Vanishing gradients and their remedies, on one deep stack of convolutions in five variants, and on a classifier.

Auxiliary heads (GoogLeNet, section 5), batch norm (Ioffe and Szegedy 2015), highway gates (Srivastava et al. 2015) and
residual shortcuts (He et al. 2015) each give early layers a gradient that a plain stack loses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from detseg.analysis.charts import COLORS, pixels_of, to_figure
from detseg.draw import ImageArray
from detseg.models import Classifier
from detseg.modules.backbones import ConvNet

Variant = Literal["plain", "auxiliary heads", "batch norm", "highway", "residual"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
AUXILIARY_WEIGHT = 0.3  # of each head's loss (GoogLeNet, section 5)
GATE_BIAS = -2.0  # a highway layer carries its input at first (section 2.2)
RATE, MOMENTUM = 0.01, 0.9


class Trained(NamedTuple):
    """Norms of the weights' gradients (steps, layers), from input to output, and the loss of each step."""

    norms: NDArray[np.float64]
    losses: list[float]


class DeepStack(nn.Module):
    """``depth`` convolutions of 3 x 3 with ReLU and ``width`` channels, then global pooling and a linear classifier.

    Weights begin as PyTorch's default, which halves the variance with every layer and more.
    """

    def __init__(self, variant: Variant, depth: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.variant = variant
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(depth if variant == "batch norm" else 0))
        self.gates = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1) for _ in range(depth if variant == "highway" else 0)
        )
        for gate in self.gates:
            nn.init.constant_(gate.bias, GATE_BIAS)  # type: ignore[arg-type]
        self.places = [depth // 3, 2 * depth // 3] if variant == "auxiliary heads" else []
        self.heads = nn.ModuleList(nn.Linear(width, num_classes) for _ in self.places)
        self.head = nn.Linear(width, num_classes)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Compute the cross entropy of images (B, 3, H, W), about -1 to 1, with the auxiliary losses."""
        x = F.relu(self.stem(images))
        auxiliary = []
        for index, layer in enumerate(self.layers):
            y = layer(x)
            if self.variant == "batch norm":
                x = F.relu(self.norms[index](y))
            elif self.variant == "highway":
                x = torch.lerp(x, F.relu(y), self.gates[index](x).sigmoid())
            elif self.variant == "residual":
                x = x + F.relu(y)
            else:
                x = F.relu(y)
            if index + 1 in self.places:
                head = self.heads[self.places.index(index + 1)]
                auxiliary.append(F.cross_entropy(head(x.mean(dim=(2, 3))), labels))
        loss = F.cross_entropy(self.head(x.mean(dim=(2, 3))), labels)
        return loss + AUXILIARY_WEIGHT * sum(auxiliary, start=loss.new_zeros(()))


def train_network(model: DeepStack | Classifier, batches: Iterable[tuple[Tensor, Tensor]]) -> Trained:
    """Train on batches of images (B, 3, H, W), uint8, and labels (B,), by SGD with clipped gradients.

    The layers of a classifier are the blocks of its backbone, a ``ConvNet``, that have weights.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    layers = _layer_weights(model)
    norms, losses = [], []
    for images, labels in batches:
        loss = _total_loss(model, images, labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norms.append([get_total_norm([p.grad for p in layer if p.grad is not None]).item() for layer in layers])
        losses.append(loss.item())
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return Trained(np.array(norms), losses)


def _layer_weights(model: DeepStack | Classifier) -> list[list[nn.Parameter]]:
    if isinstance(model, DeepStack):
        return [[layer.get_parameter("weight")] for layer in model.layers]
    assert isinstance(model.backbone, ConvNet)
    blocks = [[*model.backbone.get_submodule(name).parameters()] for name in model.backbone.block_names]
    return [block for block in blocks if block]


def _total_loss(model: DeepStack | Classifier, images: Tensor, labels: Tensor) -> Tensor:
    if isinstance(model, DeepStack):
        return model.loss(images.float() / 127.5 - 1, labels)
    return torch.stack([*model.cross_entropies(images, labels).values()]).sum()


def draw_gradients(title: str, trained: dict[str, Trained], last: int = 10) -> ImageArray:
    """Draw the norms over the layers at the first step and over the ``last`` steps, and the losses."""
    figure = to_figure((1200, 430))
    figure.suptitle(title)
    first, later, losses = (figure.add_subplot(1, 3, place) for place in (1, 2, 3))
    first.set(title="norm of the gradient, step 1", xlabel="layer, from the input", yscale="log")
    later.set(title=f"mean of the last {last} steps", xlabel="layer, from the input", yscale="log")
    losses.set(title="loss, mean of ten steps", xlabel="step")
    for color, (name, run) in zip((*COLORS, "#000000"), trained.items(), strict=False):
        layers = np.arange(1, run.norms.shape[1] + 1)
        first.plot(layers, run.norms[0].clip(1e-20), color=color, label=name)
        later.plot(layers, run.norms[-last:].mean(axis=0).clip(1e-20), color=color)
        losses.plot(smooth(run.losses, 10), color=color)
    first.legend(fontsize=8)
    for axes in (first, later, losses):
        axes.grid(alpha=0.4)
    return pixels_of(figure)


def smooth(values: Sequence[float], window: int) -> NDArray[np.float64]:
    """Average each value with up to ``window`` - 1 before it."""
    sums = np.cumsum([0.0, *values])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))
