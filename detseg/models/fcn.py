"""Fully convolutional networks (Long et al. 2015, arXiv:1411.4038; Shelhamer et al. 2016, arXiv:1605.06211)."""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from detseg.configurable import WEIGHTS_IN_CHECKPOINT
from detseg.errors import CheckpointError
from detseg.models.classifier import Classifier
from detseg.models.segmenter import Criterion, Segmenter, pad, upsample
from detseg.modules.backbones import Backbone
from detseg.modules.fully_convolutional import hidden_layers, to_fully_convolutional
from detseg.modules.upsampling import Upsampling
from detseg.weights.state_dict import model_state_dict, read_weights, state_dict_mismatch

log = logging.getLogger(__name__)


class ConvolutionalClassifier(nn.Module):
    """A ``classifier`` applied to every window of a larger image (section 3.1, figure 2).

    An image of ``size`` x ``size`` pixels, by default the backbone's published size, gets the logits of the classifier.
    Cell (i, j) belongs to the window of that size whose first pixel is (i, j) x the backbone's stride, and differs from
    the classifier's logits only by the surrounding pixels in place of padding. The centre of the receptive field is the
    centre of the window in VGG, half a pixel before it in AlexNet, and nearly half a stride before it in networks with
    strided convolutions or poolings of odd size, padded on both sides, such as ResNet.

    Raises ValueError if the classifier does not take images of this size.
    """

    def __init__(self, classifier: Classifier, size: int | None = None) -> None:
        super().__init__()
        self.backbone = classifier.backbone
        size = size or self.backbone.image_size
        with torch.no_grad():
            image = torch.zeros(1, 3, size, size, dtype=torch.uint8, device=self.backbone.mean.device)
            last = self.backbone.eval().classifier_features(image)  # or batch norm would learn from it
        self.head = to_fully_convolutional(classifier.head, last.shape[1], last.shape[2])
        self.train(classifier.training)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (B, K, h, w), one for each window of ``size``, of images (B, 3, H, W), uint8."""
        return self.head(self.backbone.classifier_features(images))  # type: ignore[no-any-return]


class FCN(Segmenter):
    """Class scores on maps of several strides, each upsampled and added to those of the next finer map.

    ``stride`` is that of the finest scored map: 32 for FCN-32s, 16 for FCN-16s, 8 for FCN-8s (section 4.2). The paper's
    backbone is ``VGG("vgg16", weights=..., stages=[3, 4, 5], pooled=True)``, whose maps are pool3, pool4 and pool5; any
    backbone with a map of this stride works. Hidden fully connected layers of the backbone's classifier become
    convolutions with the same weights (section 3.1).

    ``weights`` is a checkpoint of a coarser net to start from, such as FCN-32s for FCN-16s. The new scores of the finer
    map begin at zero, so that the initial output is that of the coarser net (section 4.2). Its class weights are not
    loaded. To train all strides at once, the paper's ``skip_scale`` is 0.01: it multiplies the features of the next
    finer map by 0.01, those of the one after by 0.0001 (Shelhamer et al. 2016, section 4.3).

    Learned transposed convolutions, initialised bilinearly, upsample the scores from map to map; the last step, from
    ``stride`` to pixels, is fixed bilinear interpolation (section 4.3). The authors' released nets fix all of them, pad
    the image by 100 pixels so that the scores cover an image of any size, and crop the maps. Here the image is padded
    at its end to a multiple of the coarsest stride (see ``segmenter.pad``), fc6 pads its own input, and a cell of every
    map stands for stride x stride pixels.

    Raises ValueError if the backbone has no map of this ``stride``, CheckpointError for ``weights`` of another net.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        stride: int = 8,
        skip_scale: float = 1.0,
        criterion: Criterion = "cross_entropy",
        weights: str | None = None,
    ) -> None:
        super().__init__(num_classes, criterion)
        strides = backbone.strides[: len(backbone.strides) - backbone.num_rpn_only_levels]
        if stride not in strides:
            raise ValueError(f"stride {stride}: the backbone has maps of strides {', '.join(map(str, strides))}")
        if len(set(strides)) < len(strides):
            raise ValueError(f"the backbone has maps of strides {strides}; each must be coarser than the one before")
        self.backbone = backbone
        self.stride, self.skip_scale = stride, skip_scale
        self.first = strides.index(stride)
        self.strides = strides[self.first :]

        self.hidden = hidden_layers(backbone)
        convolutions = [layer for layer in self.hidden if isinstance(layer, nn.Conv2d)]
        channels = backbone.channels[self.first : len(strides)]
        if convolutions:
            channels[-1] = convolutions[-1].out_channels
        self.scores = nn.ModuleDict()
        for score_stride, width in zip(self.strides, channels, strict=True):
            score = nn.Conv2d(width, num_classes, 1)
            nn.init.zeros_(score.weight)
            nn.init.zeros_(score.bias)  # type: ignore[arg-type]
            self.scores[str(score_stride)] = score
        self.upsamplings = nn.ModuleDict(
            {str(fine): Upsampling(num_classes, coarse // fine) for fine, coarse in pairwise(self.strides)}
        )
        if weights not in (None, WEIGHTS_IN_CHECKPOINT):
            self._load_coarser(Path(weights))

    def forward(self, images: Tensor, image_sizes: Tensor | None = None) -> Tensor:
        height, width = images.shape[-2:]
        images, image_sizes = pad(images, image_sizes, self.strides[-1])
        *skips, coarsest = self.backbone(images, image_sizes)[self.first : self.first + len(self.strides)]
        scores = self.scores[str(self.strides[-1])](self.hidden(coarsest))
        for step, (stride, skip) in enumerate(zip(reversed(self.strides[:-1]), reversed(skips), strict=True), 1):
            finer = self.scores[str(stride)](skip * self.skip_scale**step if self.skip_scale != 1 else skip)
            scores = self.upsamplings[str(stride)](scores) + finer
        return upsample(scores, images)[..., :height, :width]

    def _load_coarser(self, path: Path) -> None:
        """Load the weights of a coarser net from a checkpoint."""
        if not path.exists():
            raise CheckpointError(f"{path}: no such file; train the coarser net first, or set weights to null")
        state_dict, expected = model_state_dict(read_weights(path)), self.state_dict()
        if not torch.equal(state_dict.get("class_weights", expected["class_weights"]), expected["class_weights"]):
            log.info("%s: its class weights are not loaded; task.class_weights sets them", path)
        state_dict["class_weights"] = expected["class_weights"]
        new = [name for name in expected if name not in state_dict and name.startswith(("scores.", "upsamplings."))]
        if mismatch := state_dict_mismatch(state_dict, expected, lambda name: name not in new):
            raise CheckpointError(f"{path}: not a coarser FCN on this backbone with as many classes: {mismatch}")
        self.load_state_dict(state_dict, strict=False)
        log.info("%s: weights loaded; new are %s", path, ", ".join(new) or "none")
