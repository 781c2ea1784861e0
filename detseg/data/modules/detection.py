"""What data sets of objects in boxes share: their samples, and the sizes of batches."""

from __future__ import annotations

import inspect
import json
import shlex
from contextlib import suppress
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from detseg.configurable import to_config
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.images import read_image
from detseg.data.annotations.masks import MaskUse
from detseg.data.loading.bad_samples import BadSamples
from detseg.data.loading.collate import assign_bucket, default_pad_shapes
from detseg.data.loading.repeat_factors import ImageSampling
from detseg.data.loading.samplers import Key
from detseg.data.modules.base import BaseDataModule
from detseg.data.splits import Split
from detseg.data.transforms.detection import ImageSample, Transforms, fit
from detseg.data.transforms.mixing import MixingTransforms
from detseg.errors import DataError
from detseg.ops.masks import box_masks
from detseg.preprocessing import ResizeConfig
from detseg.proposals.cache import Proposals, cache_file
from detseg.structures import Sample

MOST_PROPOSALS = 2000  # of an image; about as many as R-CNN and Fast R-CNN have of selective search


class DetectionDataset(Dataset[Sample]):
    """Images with the objects to learn from: neither crowds nor difficult ones."""

    def __init__(
        self,
        annotations: DetectionAnnotations,
        transforms: Transforms,
        training: bool,
        proposals: Proposals | None = None,
        masks: bool = False,
    ) -> None:
        self.annotations, self.transforms, self.training = annotations, transforms, training
        self.proposals, self.masks = proposals, masks

    def __len__(self) -> int:
        """Count the images."""
        return len(self.annotations)

    def __getitem__(self, key: int | Key) -> Sample:
        """Read the image of a row; a training sampler adds the seed of its random changes, else the row serves."""
        row, seed = key if isinstance(key, tuple) else (key, key)
        picture = self.picture(row)
        if self.training:
            picture = self.transforms.train(picture, seed, self._another)
        else:
            picture = self.transforms.evaluate(picture)
        height, width = self.annotations.sizes[row].tolist()
        return Sample(
            image=torch.from_numpy(picture.image).permute(2, 0, 1),
            boxes=torch.from_numpy(picture.boxes),
            labels=torch.from_numpy(picture.labels),
            image_index=row,
            original_size=(height, width),
            masks=None if picture.masks is None else torch.from_numpy(np.ascontiguousarray(picture.masks)),
            proposals=None if picture.proposals is None else torch.from_numpy(picture.proposals),
        )

    def picture(self, row: int) -> ImageSample:
        """Read an image, with its objects and proposals, as the files have them."""
        objects = self.annotations.objects(row)
        learnt = ~(self.annotations.crowd[objects] | self.annotations.difficult[objects])
        height, width = self.annotations.sizes[row].tolist()
        boxes = self.annotations.boxes[objects][learnt].clip(0, (width, height, width, height))
        return ImageSample(
            image=read_image(self.annotations.path(row), (height, width)),
            boxes=boxes.astype(np.float32),
            labels=self.annotations.labels[objects][learnt],
            masks=self._grids(np.flatnonzero(learnt) + objects.start, boxes, height, width),
            proposals=self.proposals[row][:MOST_PROPOSALS] if self.proposals else None,
        )

    def _another(self, generator: np.random.Generator) -> ImageSample:
        """A picture at random, or the next that can be read: what is wrong with one is for its own turn to say."""
        row = int(generator.integers(len(self)))
        for place in chain(range(row, len(self)), range(row)):
            with suppress(DataError):
                return self.picture(place)
        raise DataError("no image of the set can be used")

    def _grids(
        self, objects: NDArray[np.int64], boxes: NDArray[np.float64], height: int, width: int
    ) -> NDArray[np.uint8] | None:
        """The masks of some objects of an image over their boxes, if they are asked for."""
        if not self.masks:
            return None
        assert self.annotations.masks is not None
        found: NDArray[np.uint8] = box_masks(
            self.annotations.masks.draw(objects, height, width), torch.from_numpy(boxes).float()
        ).numpy()
        return found


class DetectionDataModule(BaseDataModule[DetectionAnnotations]):
    """A data set of objects in boxes; subclasses say how to ``read`` its annotations.

    ``proposals`` is a folder that ``detseg propose`` wrote, for models that do not make their own. ``masks`` says
    whether masks come with the boxes: of "all" objects, one that has none or a broken one being an error, or of those
    where they are "valid", the others being left out and counted in the log. ``sampling`` says how often an image comes
    in an epoch of training, by default once. The rest is as in ``BaseDataModule``.
    """

    purpose = "to find"

    def __init__(
        self,
        transforms: Transforms | None = None,
        batch_size: int = 2,
        workers: int = 2,
        proposals: str | None = None,
        masks: MaskUse = "none",
        sampling: ImageSampling | None = None,
        bad_samples: BadSamples = "error",
    ) -> None:
        super().__init__(batch_size, workers, bad_samples)
        self.transforms = transforms or Transforms()
        self.proposals = proposals
        self.masks = masks
        self.sampling = sampling
        if isinstance(self.transforms, MixingTransforms):
            self.transforms.check(masks != "none", proposals is not None)

    @property
    def preprocessing(self) -> ResizeConfig:
        """The resizing of images for evaluation."""
        return ResizeConfig(max(self.transforms.sizes), self.transforms.max_size)

    @property
    def pad_shapes(self) -> list[tuple[int, int]]:
        """Heights and widths that batches are padded to."""
        return default_pad_shapes(max(self.transforms.sizes), self.transforms.max_size)

    def bucket_ids(self, split: Split) -> NDArray[np.int64]:
        """The bucket of each image."""
        sizes = fit(self.annotations(split).sizes, max(self.transforms.sizes), self.transforms.max_size)
        return assign_bucket(sizes, self.pad_shapes)

    def repeat_factors(self, split: Split) -> NDArray[np.float64] | None:
        """How often each image comes in an epoch of training, on average, as ``sampling`` says."""
        return None if self.sampling is None else self.sampling.repeat_factors(self.annotations(split))

    def dataset(self, split: Split) -> DetectionDataset:
        """The images of a split, with their proposals if there are to be any."""
        annotations = self.annotations(split)
        proposals = None
        if self.proposals is not None:
            proposals = Proposals(cache_file(self.proposals, split), annotations, self._propose_command(split))
        return DetectionDataset(annotations, self.transforms, split == "train", proposals, self.masks != "none")

    def _propose_command(self, split: Split) -> str:
        """The command that makes the proposals of a split, but for its method."""
        own = to_config(self)
        general = inspect.signature(DetectionDataModule).parameters
        places = {
            f"--data.{name}": value if isinstance(value, str) else json.dumps(value)
            for name, value in own["init_args"].items()
            if name not in general and value is not None
        }
        options = {"--data": own["class"], **places, "--split": split, "--out": str(self.proposals)}
        return shlex.join(["detseg", "propose", *(part for option in options.items() for part in option)])
