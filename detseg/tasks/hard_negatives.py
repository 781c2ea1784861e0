"""A support vector machine for each class, with hard negatives (R-CNN, section 2.3 and appendix B).

The constants are those of the original implementation where the paper has none.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from detseg.ops.linear import svm
from detseg.progress import progress
from detseg.tasks.region_features import RegionFeatures, image_name, scale_of

log = logging.getLogger(__name__)

NEGATIVE_IOU = 0.3  # with every object of the class, below which a region is a negative (section 2.3)
C = 0.001
POSITIVE_WEIGHT = 2.0
BIAS = 10.0
HARD = -1.0001  # the margin above which a negative is hard: all the others add nothing to the hinge loss
EASY = -1.2  # the margin below which one is forgotten
ENOUGH = 2000  # new negatives, after which a machine is fitted again


class Machine:
    """The machine of one class and the negatives that it knows."""

    def __init__(self, positives: Tensor) -> None:
        self.positives = positives  # (P, D)
        self._negatives = [positives[:0]]  # as they were added: to join them each time would copy them all
        self._places = [torch.zeros(0, 2, dtype=torch.int64)]
        self.weight = torch.zeros(positives.shape[1])
        self.bias = torch.tensor(torch.inf)  # before the first fit every negative is hard
        self.new = 0

    @property
    def negatives(self) -> Tensor:
        """Their features (N, D)."""
        return torch.cat(self._negatives)

    @property
    def places(self) -> Tensor:
        """Image and region of each, (N, 2)."""
        return torch.cat(self._places)

    def add(self, image: int, chosen: Tensor, hidden: Tensor) -> None:
        """Add the regions ``chosen`` (n,) of an image with the features ``hidden`` (m, D)."""
        self._places.append(torch.stack([torch.full_like(chosen, image), chosen], dim=1))
        self._negatives.append(hidden[chosen])
        self.new += len(chosen)

    def fit(self) -> None:
        """Fit it to what it knows, and forget the negatives that have become easy."""
        negatives, places = self.negatives, self.places
        if len(negatives):
            features = torch.cat([self.positives, negatives]).float()
            positive = torch.arange(len(features)) < len(self.positives)
            self.weight, self.bias = svm(features, positive, C, POSITIVE_WEIGHT, BIAS)
        hard = negatives.float() @ self.weight + self.bias >= EASY
        self._negatives, self._places, self.new = [negatives[hard]], [places[hard]], 0


def fit_machines(files: RegionFeatures, images: int, classes: Sequence[str], enough: int = ENOUGH) -> None:
    """Write ``svms``, the ``weight`` (K, D) and ``bias`` (K,) of each class, from the features of so many images.

    The images are looked at once, in their order. The regions of one are its objects, which may be negatives of other
    classes, and then its proposals. Until a machine has been fitted it takes every negative of its class,
    then the hard ones alone. After each ``enough`` new ones it is fitted, and at the end. (The original implementation
    begins with the first image, whose 2,000 proposals are about as many.) A class without an object, or without a
    negative, is never found. It goes on where it was interrupted.
    """
    scale = scale_of(files, images, "truth", "hidden")
    objects = [files.read(image_name(image), "labels", "truth") for image in range(images)]
    labels, truth = (torch.cat(parts) for parts in zip(*objects, strict=True))
    machines = {int(c): Machine(scale * truth[labels == c]) for c in torch.unique(labels)}
    if absent := [name for c, name in enumerate(classes) if c not in machines]:
        log.warning("no training image shows %s: never to be found", ", ".join(absent))

    done = _load(files, machines, scale) if "mining" in files else 0
    with progress(done, images, "hard negatives") as advance:
        for image in range(done, images):
            hidden, (overlaps,) = scale * _regions(files, image), files.read(image_name(image), "overlaps")
            weights = torch.stack([machine.weight for machine in machines.values()])
            margins = hidden.float() @ weights.T
            fitted = False
            for (c, machine), margin in zip(machines.items(), margins.T, strict=True):
                hard = margin + machine.bias > HARD
                machine.add(image, (hard & (overlaps[:, c] < NEGATIVE_IOU)).nonzero()[:, 0], hidden)
                if machine.new >= enough:
                    machine.fit()
                    fitted = True
            if fitted:
                _save(files, machines, image + 1)
            advance()
    with progress(0, len(machines), "last fit", "classes") as advance:
        for machine in machines.values():
            machine.fit()
            advance()
    if unfitted := [classes[c] for c, machine in machines.items() if machine.bias.isposinf()]:
        log.warning("no region is away from the objects of %s: never to be found", ", ".join(unfitted))
    known = sum(len(machine.negatives) for machine in machines.values())
    log.info("%d objects, %d hard negatives in the end", len(truth), known)

    weight, bias = torch.zeros(len(classes), truth.shape[1]), torch.full((len(classes),), -torch.inf)
    for c, machine in machines.items():
        if machine.bias.isfinite():
            weight[c], bias[c] = scale * machine.weight, machine.bias
    files.write("svms", {"weight": weight, "bias": bias})


def _regions(files: RegionFeatures, image: int) -> Tensor:
    """Features of all regions of an image."""
    return torch.cat(files.read(image_name(image), "truth", "hidden"))


def _save(files: RegionFeatures, machines: dict[int, Machine], done: int) -> None:
    """Keep what cannot be had from the features: the machines, and which negatives they know."""
    content = {"done": torch.tensor(done)}
    for c, machine in machines.items():
        content |= {f"{c}.weight": machine.weight, f"{c}.bias": machine.bias, f"{c}.places": machine.places}
        content |= {f"{c}.new": torch.tensor(machine.new)}
    files.write("mining", content)


def _load(files: RegionFeatures, machines: dict[int, Machine], scale: float) -> int:
    """Bring machines to where they were; the number of images that were done."""
    (done,) = files.read("mining", "done")
    places = {c: files.read("mining", f"{c}.places")[0] for c in machines}
    for image in range(int(done)):
        hidden = scale * _regions(files, image)
        for c, machine in machines.items():
            machine.add(image, places[c][places[c][:, 0] == image, 1], hidden)
    for c, machine in machines.items():
        machine.weight, machine.bias, new = files.read("mining", f"{c}.weight", f"{c}.bias", f"{c}.new")
        machine.new = int(new)
    log.info("hard negatives: going on, %d images are done", int(done))
    return int(done)
