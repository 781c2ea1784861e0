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
from detseg.modules.fully_convolutional import convolutional, hidden_layers
from detseg.modules.upsampling import Upsampling
from detseg.weights.state_dict import model_state_dict, read_weights, state_dict_mismatch

log = logging.getLogger(__name__)


class ConvolutionalClassifier(nn.Module):
    """A ``classifier`` that says of every place of a larger image what is there (section 3.1, figure 2).

    On an image of ``size`` x ``size`` pixels, by default those that the backbone was published for, it gives the logits
    of the classifier. Cell (i, j) is for the window of that size whose first pixel is (i, j) x the backbone's stride:
    as the classifier would see it, but for what lies around it in the place of padding. What counts most in a window is
    at its middle in VGG, half a pixel before it in AlexNet, and nearly half a stride before it where convolutions or
    poolings of an odd size, padded on both sides, have a stride, as in ResNet.

    Raises ValueError if that is not a size that the classifier can be trained with.
    """

    def __init__(self, classifier: Classifier, size: int | None = None) -> None:
        super().__init__()
        self.backbone = classifier.backbone
        size = size or self.backbone.image_size
        with torch.no_grad():
            image = torch.zeros(1, 3, size, size, dtype=torch.uint8, device=self.backbone.mean.device)
            last = self.backbone.eval().classifier_features(image)  # or batch norm would learn from it
        self.head = convolutional(classifier.head, last.shape[1], last.shape[2])
        self.train(classifier.training)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), uint8, to logits (B, K, h, w), one for each window that is as large as ``size``."""
        return self.head(self.backbone.classifier_features(images))  # type: ignore[no-any-return]


class FCN(Segmenter):
    """Scores of the classes on maps of several strides, each added to those of the coarser ones, and upsampled.

    ``stride`` is that of the finest map that is scored: 32 for FCN-32s, 16 for FCN-16s, 8 for FCN-8s (section 4.2). The
    paper's backbone is ``VGG("vgg16", weights=..., stages=[3, 4, 5], pooled=True)``, whose maps are pool3, pool4 and
    pool5; any other will do that has a map of the stride. The fully connected layers of a classifier come along as
    convolutions, where it has hidden ones, with the backbone's weights (section 3.1).

    ``weights`` is a checkpoint of a coarser net, such as FCN-32s for FCN-16s, to go on from. What is new, the scores of
    the finer map, begins at zero, so that the net begins with what the coarser one says (section 4.2). The weights of
    the classes in its loss are not taken over: each training has those that it asks for. To train all at once, the
    paper's ``skip_scale`` is 0.01: scores of the next finer map are made of features times 0.01, of the one after that
    times 0.0001 (Shelhamer et al. 2016, section 4.3).

    Scores are upsampled step by step by transposed convolutions, which begin as bilinear interpolation and learn; the
    last step, from ``stride`` to pixels, is bilinear interpolation and stays it (section 4.3). Maps are aligned, not
    cropped: where the paper pads the image by 100 pixels so that fc6 fits, and crops what is added, here the image is
    padded at its end to a multiple of the coarsest stride (see ``segmenter.pad``), fc6 pads its own input, and a cell
    of every map stands for stride x stride pixels.

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
            self._go_on_from(Path(weights))

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        height, width = images.shape[-2:]
        images, sizes = pad(images, sizes, self.strides[-1])
        *skips, coarsest = self.backbone(images, sizes)[self.first : self.first + len(self.strides)]
        scores = self.scores[str(self.strides[-1])](self.hidden(coarsest))
        for step, (stride, skip) in enumerate(zip(reversed(self.strides[:-1]), reversed(skips), strict=True), 1):
            finer = self.scores[str(stride)](skip * self.skip_scale**step if self.skip_scale != 1 else skip)
            scores = self.upsamplings[str(stride)](scores) + finer
        return upsample(scores, images)[..., :height, :width]

    def _go_on_from(self, path: Path) -> None:
        """Take over the weights of a coarser net from a checkpoint."""
        if not path.exists():
            raise CheckpointError(f"{path}: no such file; train the coarser net first, or set weights to null")
        given, own = model_state_dict(read_weights(path)), self.state_dict()
        if not torch.equal(given.get("class_weights", own["class_weights"]), own["class_weights"]):
            log.info("%s: its weights of the classes are not taken; this net has those of task.class_weights", path)
        given["class_weights"] = own["class_weights"]
        new = [name for name in own if name not in given and name.startswith(("scores.", "upsamplings."))]
        if said := state_dict_mismatch(given, own, lambda name: name not in new):
            raise CheckpointError(f"{path}: not of a coarser FCN on this backbone, for as many classes: {said}")
        self.load_state_dict(given, strict=False)
        log.info("%s: taken over; new are %s", path, ", ".join(new) or "none")
