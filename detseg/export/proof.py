"""Proof that an exported model computes what its checkpoint does, on images made to break exports.

Both see the same batches of 1, 3 and 8 images: synthetic shapes or given images, an empty one, a single pixel, one that
fills the frame with noise, and one crowded with shapes. The rules:

- Detections match one to one: the same label, corners within ``BOX`` pixels, scores within ``SCORE``, best first.
- Where they do not, the checkpoint is computed in double precision, and scores may differ from that by ``SCORE``, or by
  ``ERRORS`` times the largest error that single precision makes in PyTorch, itself at most ``SCORE``.
- Mask probabilities lie on the same side of 0.5, except for a share of ``MASK`` of all cells.
- Pixels of a segmenter have the same label unless the two labels' logits differ by less than ``LOGIT``.
- Probabilities of a classifier agree within ``SCORE``, or as scores of detections do.
- The average precision of given images with objects agrees within ``AP``.
- A tie is an image in which detections do not match because rounding decides about them: the checkpoint itself gives
  or leaves out each of them with other rounding (see ``ties``). A share of ``TIED`` of the images may be ties.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from detseg import kernels
from detseg.export.ap import ApComparison
from detseg.export.graph import Frame, make_graph
from detseg.export.matching import BOX, SCORE, Arrays, disorder, largest_difference, match_detections
from detseg.export.proof_images import ProofImage, drawn_proposals
from detseg.export.ties import SHARES, is_tie
from detseg.models import Classifier, Detector, Segmenter
from detseg.models.model import Model

MASK, LOGIT, AP, TIED = 1e-4, 1e-3, 1e-4, 0.02
ERRORS = 4  # libraries add in other orders: OpenVINO's errors are up to three times as large as PyTorch's
BATCHES = (1, 3, 8)
ENOUGH = 3  # failures, after which the comparison ends
Engine = Callable[[Arrays], Arrays]


@dataclass
class Proof:
    """Results of a comparison; it is passed if there are no ``failures``."""

    images: int = 0
    detections: int = 0
    max_box_difference: float = 0.0  # pixels
    max_score_difference: float = 0.0
    mask_cells: int = 0
    mask_cells_differing: int = 0
    pixels_differing: int = 0
    ap: dict[str, list[float]] = field(default_factory=dict)  # of the checkpoint and of the file, if there are objects
    rounded: list[str] = field(default_factory=list)  # images that match the checkpoint in double precision
    ties: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        """Return all values with the tolerances."""
        limits: dict[str, Any] = {"box": BOX, "score": SCORE, "mask": MASK, "logit": LOGIT, "ap": AP, "tied": TIED}
        limits |= {"errors": ERRORS, "tie_shares": SHARES}
        return {"passed": not self.failures, **asdict(self), "tolerances": limits, "batches": list(BATCHES)}

    def summary(self, model: Model) -> str:
        """Describe the differences in the terms of the model's task."""
        if isinstance(model, Segmenter):
            return f"{self.pixels_differing} pixels of another class"
        scores = f"scores within {self.max_score_difference:.1g}"
        if isinstance(model, Classifier):
            return scores
        boxes = f"boxes within {self.max_box_difference:.1g} px"
        return f"{self.detections} detections, {boxes}, {scores}, {len(self.ties)} ties"


def prove(model: Model, engine: Engine, frame: Frame, images: Iterable[ProofImage], count: int) -> Proof:
    """Compare an exported model with its checkpoint on ``count`` of the images."""
    proof = Proof()
    reference = Reference(model)
    ap = ApComparison()
    remaining = islice(images, count)
    for size in cycle(BATCHES):
        batch = list(islice(remaining, size))
        if not batch:
            break
        inputs = reference.inputs(batch, frame)
        try:
            expected, actual = reference(inputs), engine(inputs)
        except Exception as error:  # of the library that runs the file
            proof.failures.append(f"{batch[0].name}: a batch of {len(batch)} cannot be computed: {error}")
            break
        shapes = {name: value.shape for name, value in expected.items()}
        if {name: value.shape for name, value in actual.items()} != shapes:
            proof.failures.append(f"{batch[0].name}: outputs of shapes {shapes} are missing or of other shapes")
            break
        for row, image in enumerate(batch):
            one = {name: value[row : row + 1] for name, value in inputs.items()}
            pair = ({name: value[row] for name, value in outputs.items()} for outputs in (expected, actual))
            reference.compare(proof, image, one, *pair)
        ap.update(batch, expected, actual)
        proof.images += len(batch)
        if len(proof.failures) >= ENOUGH:
            break
    proof.ap = ap.compute()
    for name, (reference_ap, exported_ap) in proof.ap.items():
        if abs(reference_ap - exported_ap) > AP:
            proof.failures.append(f"{name} is {exported_ap:.4f}, that of the checkpoint {reference_ap:.4f}")
    if isinstance(model, Detector) and not proof.detections:
        proof.failures.append("nothing is detected in these images, so that they prove nothing; give others: `images`")
    if len(proof.ties) > TIED * proof.images + 1:
        proof.failures.append(f"{len(proof.ties)} of {proof.images} images with ties, which should be rare")
    if proof.mask_cells_differing > MASK * proof.mask_cells:
        proof.failures.append(f"{proof.mask_cells_differing} of {proof.mask_cells} cells of masks differ")
    return proof


class Reference:
    """The model of the checkpoint, run by PyTorch with its plain operations."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.graph: Any = make_graph(model, nodes=False)

    @cached_property
    def exact_graph(self) -> Any:
        """The graph in double precision."""
        return copy.deepcopy(self.graph).double()

    def __call__(self, inputs: Arrays, exact: bool = False) -> Arrays:
        """Compute the outputs of a batch, in double precision if they shall be ``exact``."""
        graph = self.exact_graph if exact else self.graph
        with torch.inference_mode(), kernels.use(fast=False):
            outputs = graph(**{name: torch.from_numpy(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}

    def inputs(self, batch: Sequence[ProofImage], frame: Frame) -> Arrays:
        """Pad images to a batch; proposals are drawn."""
        images = np.zeros((len(batch), 3, *frame), np.uint8)
        sizes = np.array([image.pixels.shape[:2] for image in batch], np.int64)
        for row, image in enumerate(batch):
            images[row, :, : sizes[row, 0], : sizes[row, 1]] = image.pixels.transpose(2, 0, 1)
        inputs: Arrays = {"images": images}
        if not isinstance(self.model, Classifier):
            inputs["image_sizes"] = sizes
        if isinstance(self.model, Detector) and self.model.needs_proposals:
            inputs |= drawn_proposals(sizes, self.graph.model.roi_heads.strides[-1])
        return inputs

    def compare(self, proof: Proof, image: ProofImage, inputs: Arrays, expected: Arrays, actual: Arrays) -> None:
        """Add the differences of one image to a proof."""
        if isinstance(self.model, Detector):
            self._compare_detections(proof, image, inputs, expected, actual)
        elif isinstance(self.model, Segmenter):
            self._compare_labels(proof, image, inputs, expected["labels"], actual["labels"])
        else:
            self._compare_probabilities(proof, image, inputs, expected["scores"], actual["scores"])

    def _compare_probabilities(
        self, proof: Proof, image: ProofImage, inputs: Arrays, expected: NDArray[Any], actual: NDArray[Any]
    ) -> None:
        difference, limit = float(np.abs(expected - actual).max()), SCORE
        if difference > SCORE:
            exact = _first(self(inputs, exact=True))["scores"]
            difference, error = (float(np.abs(exact - each).max()) for each in (actual, expected))
            limit = _score_limit(error)
            if difference <= limit:
                proof.rounded.append(_distances(image, difference, error))
        proof.max_score_difference = max(proof.max_score_difference, difference)
        if not difference <= limit:
            proof.failures.append(f"{image.name}: probabilities differ by {difference:.2g}")

    def _compare_detections(
        self, proof: Proof, image: ProofImage, inputs: Arrays, expected: Arrays, actual: Arrays
    ) -> None:
        broken = disorder(actual)
        if broken:
            proof.failures.append(f"{image.name}: {broken}")
            return
        match = match_detections(expected, actual)
        if not match.complete:
            single, expected = expected, _first(self(inputs, exact=True))
            error = largest_difference(match_detections(expected, single), expected, single, "scores")
            limit = _score_limit(error)
            match = match_detections(expected, actual, limit)
            if match.complete:
                farthest = largest_difference(match, expected, actual, "scores")
                proof.rounded.append(_distances(image, farthest, error))
            # One failure is enough: the others are not explained.
            elif not proof.failures and is_tie(match, expected, actual, limit, lambda: _first(self(inputs))):
                proof.ties.append(f"{image.name}: {match}")
            else:
                proof.failures.append(f"{image.name}: {match}")
        proof.detections += int(expected["num_detections"])
        boxes, scores = (largest_difference(match, expected, actual, name) for name in ("boxes", "scores"))
        proof.max_box_difference = max(proof.max_box_difference, boxes)
        proof.max_score_difference = max(proof.max_score_difference, scores)
        if "masks" in expected:
            inside = expected["masks"][match.expected] >= 0.5, actual["masks"][match.actual] >= 0.5
            proof.mask_cells += inside[0].size
            proof.mask_cells_differing += int((inside[0] != inside[1]).sum())

    def _compare_labels(
        self, proof: Proof, image: ProofImage, inputs: Arrays, expected: NDArray[Any], actual: NDArray[Any]
    ) -> None:
        height, width = image.pixels.shape[:2]
        differs = np.argwhere(expected[:height, :width] != actual[:height, :width])
        if not len(differs):
            return
        proof.pixels_differing += len(differs)
        if actual.max() >= self.model.num_classes:
            proof.failures.append(f"{image.name}: labels up to {actual.max()}")
            return
        with torch.inference_mode(), kernels.use(fast=False):
            logits = self.graph.model(*(torch.from_numpy(inputs[name]) for name in ("images", "image_sizes")))[0]
        y, x = torch.from_numpy(differs).T
        labels = (torch.from_numpy(each)[y, x].long() for each in (expected, actual))
        best, other = (logits[label, y, x] for label in labels)
        if float((best - other).max()) > LOGIT:
            proof.failures.append(
                f"{image.name}: {len(differs)} pixels differ, by logits of {(best - other).max():.2g}"
            )


def _first(outputs: Arrays) -> Arrays:
    return {name: value[0] for name, value in outputs.items()}


def _score_limit(error: float) -> float:
    """Return how far a score may be from double precision, in which the checkpoint's own score is off by ``error``."""
    return max(SCORE, ERRORS * min(error, SCORE))


def _distances(image: ProofImage, exported: float, checkpoint: float) -> str:
    return f"{image.name}: scores within {exported:.2g} of double precision, the checkpoint's within {checkpoint:.2g}"
