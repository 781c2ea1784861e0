"""Fit a support vector machine for each class, with hard negatives (R-CNN, section 2.3 and appendix B).

The constants are those of the original implementation where the paper has none.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from detseg.ops import linear
from detseg.progress import progress
from detseg.tasks.region_features import RegionFeatures, image_name, scale_of

log = logging.getLogger(__name__)

NEGATIVE_IOU = 0.3  # with every object of the class, below which a region is a negative (section 2.3)
C = 0.001
POSITIVE_WEIGHT = 2.0
BIAS = 10.0
HARD = -1.0001  # the margin above which a negative is hard: all the others add nothing to the hinge loss
EASY = -1.2  # the margin below which a negative is dropped
REFIT_EVERY = 2000  # new negatives


class ClassSVM:
    """The SVM of one class and its negatives."""

    def __init__(self, positives: Tensor) -> None:
        self.positives = positives  # (P, D)
        self._negatives = [positives[:0]]  # as they were added; concatenating each time would copy them all
        self._places = [torch.zeros(0, 2, dtype=torch.int64)]
        self.weight = torch.zeros(positives.shape[1])
        self.bias = torch.tensor(torch.inf)  # before the first fit every negative is hard
        self.new = 0

    @property
    def negatives(self) -> Tensor:
        """The features (N, D) of the negatives."""
        return torch.cat(self._negatives)

    @property
    def places(self) -> Tensor:
        """The image and the region of each negative, (N, 2)."""
        return torch.cat(self._places)

    def add(self, image: int, chosen: Tensor, hidden: Tensor) -> None:
        """Add the regions ``chosen`` (n,) of an image with the features ``hidden`` (m, D)."""
        self._places.append(torch.stack([torch.full_like(chosen, image), chosen], dim=1))
        self._negatives.append(hidden[chosen])
        self.new += len(chosen)

    def fit(self) -> None:
        """Fit the SVM, then drop the negatives that have become easy."""
        negatives, places = self.negatives, self.places
        if len(negatives):
            features = torch.cat([self.positives, negatives]).float()
            positive = torch.arange(len(features)) < len(self.positives)
            self.weight, self.bias = linear.svm(features, positive, C, POSITIVE_WEIGHT, BIAS)
        hard = negatives.float() @ self.weight + self.bias >= EASY
        self._negatives, self._places, self.new = [negatives[hard]], [places[hard]], 0


def fit_svms(files: RegionFeatures, images: int, classes: Sequence[str], refit_every: int = REFIT_EVERY) -> None:
    """Write ``svms``, the ``weight`` (K, D) and ``bias`` (K,) of each class, from the features of all images.

    One pass over the images. The regions of an image are its objects, which may be negatives of other classes, and its
    proposals. Until its first fit an SVM takes every negative of its class, then the hard ones alone. It is fitted
    after every ``refit_every`` new ones, and at the end. (The original implementation fits after the first image, whose
    2,000 proposals are about as many.) A class without an object, or without a negative, is never detected. An
    interrupted call continues.
    """
    scale = scale_of(files, images, "truth", "hidden")
    objects = [files.read(image_name(image), "labels", "truth") for image in range(images)]
    labels, truth = (torch.cat(parts) for parts in zip(*objects, strict=True))
    svms = {int(c): ClassSVM(scale * truth[labels == c]) for c in torch.unique(labels)}
    if absent := [name for c, name in enumerate(classes) if c not in svms]:
        log.warning("no training image shows %s: never detected", ", ".join(absent))

    done = _load(files, svms, scale) if "mining" in files else 0
    with progress(done, images, "hard negatives") as advance:
        for image in range(done, images):
            hidden, (overlaps,) = scale * _regions(files, image), files.read(image_name(image), "overlaps")
            weights = torch.stack([svm.weight for svm in svms.values()])
            margins = hidden.float() @ weights.T
            fitted = False
            for (c, svm), margin in zip(svms.items(), margins.T, strict=True):
                hard = margin + svm.bias > HARD
                svm.add(image, (hard & (overlaps[:, c] < NEGATIVE_IOU)).nonzero()[:, 0], hidden)
                if svm.new >= refit_every:
                    svm.fit()
                    fitted = True
            if fitted:
                _save(files, svms, image + 1)
            advance()
    with progress(0, len(svms), "last fit", "classes") as advance:
        for svm in svms.values():
            svm.fit()
            advance()
    if unfitted := [classes[c] for c, svm in svms.items() if svm.bias.isposinf()]:
        log.warning("no region is a negative of %s: never detected", ", ".join(unfitted))
    known = sum(len(svm.negatives) for svm in svms.values())
    log.info("%d objects, %d hard negatives in the end", len(truth), known)

    weight, bias = torch.zeros(len(classes), truth.shape[1]), torch.full((len(classes),), -torch.inf)
    for c, svm in svms.items():
        if svm.bias.isfinite():
            weight[c], bias[c] = scale * svm.weight, svm.bias
    files.write("svms", {"weight": weight, "bias": bias})


def _regions(files: RegionFeatures, image: int) -> Tensor:
    """Read the features of all regions of an image."""
    return torch.cat(files.read(image_name(image), "truth", "hidden"))


def _save(files: RegionFeatures, svms: dict[int, ClassSVM], done: int) -> None:
    """Write the state that the features do not contain: the SVMs, and the places of their negatives."""
    content = {"done": torch.tensor(done)}
    for c, svm in svms.items():
        content |= {f"{c}.weight": svm.weight, f"{c}.bias": svm.bias, f"{c}.places": svm.places}
        content |= {f"{c}.new": torch.tensor(svm.new)}
    files.write("mining", content)


def _load(files: RegionFeatures, svms: dict[int, ClassSVM], scale: float) -> int:
    """Restore the SVMs; return the number of images that were done."""
    (done,) = files.read("mining", "done")
    places = {c: files.read("mining", f"{c}.places")[0] for c in svms}
    for image in range(int(done)):
        hidden = scale * _regions(files, image)
        for c, svm in svms.items():
            svm.add(image, places[c][places[c][:, 0] == image, 1], hidden)
    for c, svm in svms.items():
        svm.weight, svm.bias, new = files.read("mining", f"{c}.weight", f"{c}.bias", f"{c}.new")
        svm.new = int(new)
    log.info("hard negatives: continuing, %d images are done", int(done))
    return int(done)
