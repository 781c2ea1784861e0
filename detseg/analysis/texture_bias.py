"""Texture against shape: images with the shape of one class and the texture of another, and the cue that decides.

Geirhos et al. 2019 (ImageNet-trained CNNs are biased towards texture, arXiv:1811.12231); style transfer by Gatys et al.
2016 (Image style transfer using convolutional neural networks, CVPR).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detseg.analysis.charts import COLORS, MARKERS, escape, pixels_of, to_figure
from detseg.draw import ImageArray
from detseg.modules.backbones import VGG

STYLE_WEIGHT = 10.0  # against the content's 1; both losses are relative to the values they compare with
PATCH = 0.7  # of the largest square inside an object, the side of a patch: smaller ones have more places
GREY = 128


class StyleLayers(NamedTuple):
    """Blocks of a VGG, after ReLU: conv4_2 for content, conv1_1 to conv5_1 for style (Gatys et al., section 3)."""

    content: str
    style: list[str]


class CueShare(NamedTuple):
    """Decisions on cue-conflict images, by the class of the shape (Geirhos et al., section 3.1 and figure 4)."""

    shape: NDArray[np.int64]  # (K,) decisions for the shape
    texture: NDArray[np.int64]  # (K,) decisions for the texture
    images: int  # those decided for neither cue included

    @property
    def shape_bias(self) -> float:
        """Shape decisions among the decisions for either cue; NaN if there is none."""
        total = self.shape.sum() + self.texture.sum()
        return float(self.shape.sum() / total) if total else float("nan")

    @property
    def per_class(self) -> NDArray[np.float64]:
        """The shape bias for each class of the shape (K,)."""
        total = self.shape + self.texture
        return np.where(total > 0, self.shape / np.maximum(total, 1), np.nan)


def style_layers(backbone: VGG) -> StyleLayers:
    """Name the layers of the paper in a VGG of any depth."""
    groups: list[list[str]] = [[]]
    for name in backbone.block_names:
        layer = backbone.get_submodule(name)
        if isinstance(layer, nn.MaxPool2d):
            groups.append([])
        elif isinstance(layer, nn.ReLU):
            groups[-1].append(name)
    return StyleLayers(groups[3][1], [group[0] for group in groups if group])


def gram(feature: Tensor) -> Tensor:
    """Compute the Gram matrix (C, C) of a map (1, C, H, W), divided by its number of values."""
    flat = feature[0].flatten(1)
    return flat @ flat.T / flat.numel()


def transfer_style(backbone: VGG, content: ImageArray, style: ImageArray, steps: int) -> ImageArray:
    """Paint ``content`` (H, W, 3) in the style of another image, by L-BFGS on the pixels, from the content."""
    layers = style_layers(backbone)
    names = [name for name in backbone.block_names if name in (layers.content, *layers.style)]
    device = next(backbone.parameters()).device

    def features(pixels: Tensor) -> dict[str, Tensor]:
        return dict(zip(names, backbone.forward_intermediates(pixels, names), strict=True))

    def load(image: ImageArray) -> Tensor:
        return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float().contiguous().to(device)

    with torch.no_grad():
        wanted = features(load(content))[layers.content]
        grams = {name: gram(features(load(style))[name]) for name in layers.style}
    pixels = load(content).requires_grad_()
    optimizer = torch.optim.LBFGS([pixels], max_iter=steps, max_eval=2 * steps)

    def loss() -> Tensor:
        optimizer.zero_grad()
        maps = features(pixels)
        content_loss = (maps[layers.content] - wanted).square().mean() / wanted.square().mean().clamp(min=1e-12)
        style_losses = [
            (gram(maps[name]) - goal).square().sum() / goal.square().sum().clamp(min=1e-12)
            for name, goal in grams.items()
        ]
        total = content_loss + STYLE_WEIGHT * torch.stack(style_losses).mean()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return np.asarray(pixels.detach()[0].permute(1, 2, 0).clamp(0, 255).round().byte().cpu().numpy())


def foreground(image: ImageArray) -> NDArray[np.bool_]:
    """Separate an object from a plain background: Otsu's threshold on the distance from the colour of the border."""
    from skimage.color import rgb2lab
    from skimage.filters import threshold_otsu

    lab = rgb2lab(image)
    border = np.concatenate([lab[0], lab[-1], lab[:, 0], lab[:, -1]])
    distance = np.linalg.norm(lab - np.median(border, axis=0), axis=2)
    if np.ptp(distance) == 0:
        return np.zeros(image.shape[:2], dtype=bool)
    return np.asarray(distance > threshold_otsu(distance))  # type: ignore[no-untyped-call]


def fill_silhouette(shape: ImageArray, texture: ImageArray, generator: np.random.Generator) -> ImageArray:
    """Fill the silhouette of one object with patches of another, both (H, W, 3), on grey.

    Patches are squares inside the other object, at random places, so that they carry no outline. Raises ValueError if
    there is no object.
    """
    from scipy.ndimage import distance_transform_cdt

    distance = distance_transform_cdt(np.pad(foreground(texture), 1), metric="chessboard")[1:-1, 1:-1]
    if not distance.any():
        raise ValueError("the image of the texture has no object on a plain background")
    radius = max(1, round(PATCH * distance.max()))
    side = 2 * radius - 1
    centres = np.argwhere(distance >= radius)
    height, width = shape.shape[:2]
    rows, columns = -(-height // side), -(-width // side)
    chosen = centres[generator.integers(len(centres), size=rows * columns)]
    patches = np.stack([texture[y - radius + 1 : y + radius, x - radius + 1 : x + radius] for y, x in chosen])
    laid = patches.reshape(rows, columns, side, side, 3).swapaxes(1, 2).reshape(rows * side, columns * side, 3)
    return np.where(foreground(shape)[..., None], laid[:height, :width], GREY).astype(np.uint8)


def cue_share(
    decisions: Sequence[int], shapes: NDArray[np.int64], textures: NDArray[np.int64], num_classes: int
) -> CueShare:
    """Count the decisions for the shape and for the texture (N,) of each image."""
    decided = np.asarray(decisions)
    for_shape, for_texture = decided == shapes, decided == textures
    shape, texture = (np.bincount(shapes[chosen], minlength=num_classes) for chosen in (for_shape, for_texture))
    return CueShare(shape, texture, len(decided))


def draw_bias(title: str, classes: Sequence[str], shares: dict[str, CueShare]) -> ImageArray:
    """Draw the share of the shape for each class and network, and its mean as a line (Geirhos et al., figure 4)."""
    figure = to_figure((820, 140 + 34 * len(classes)))
    axes = figure.add_subplot(xlim=(-0.03, 1.03), ylim=(len(classes) - 0.4, -0.6))
    axes.set_title(escape(title), wrap=True)
    axes.set_xlabel("decided by the texture   <   share of shape decisions   >   decided by the shape")
    axes.set_yticks(range(len(classes)), [escape(name) for name in classes])
    axes.axvline(0.5, color="black", linewidth=0.7)
    for (name, share), color, marker in zip(shares.items(), COLORS * 3, MARKERS * 3, strict=False):
        label = f"{escape(name)}: {100 * share.shape_bias:.0f} % shape"
        axes.plot(share.per_class, range(len(classes)), marker, color=color, label=label, linestyle="none")
        axes.axvline(share.shape_bias, color=color, linewidth=1.5)
    axes.grid(axis="y", alpha=0.4)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    return pixels_of(figure)
