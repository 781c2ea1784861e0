"""Stop at an image that cannot be used, or skip a few of them."""

from __future__ import annotations

import logging
from typing import Literal

import torch
from torch.utils.data import Dataset

from detseg.data.loading.samplers import Key
from detseg.errors import DataError
from detseg.structures import Sample

log = logging.getLogger(__name__)

BadSamples = Literal["error", "skip"]

ONE_IN = 1000  # of so many images of a set, one may be left out


class SkipBadSamples(Dataset[Sample]):
    """The samples of ``dataset``; in the place of one that raises DataError comes the next one that does not.

    The log names each such image once, whichever worker met it. Raises DataError where more than one in ONE_IN, and
    more than one at all, cannot be used. Each process of a training on several GPUs counts those that it met itself.
    """

    def __init__(self, dataset: Dataset[Sample]) -> None:
        self.dataset = dataset
        self.bad = torch.zeros(len(dataset), dtype=torch.bool)  # type: ignore[arg-type]
        self.bad.share_memory_()  # type: ignore[no-untyped-call]
        self.budget = max(1, len(self.bad) // ONE_IN)

    def __len__(self) -> int:
        """Count the images, bad ones included."""
        return len(self.bad)

    def __getitem__(self, key: int | Key) -> Sample:
        """Read the image of a row as ``dataset`` does, or another one with the same random changes."""
        row, *seed = key if isinstance(key, tuple) else (key,)
        for place in (*range(row, len(self)), *range(row)):
            if not self.bad[place]:
                try:
                    return self.dataset[(place, *seed) if seed else place]
                except DataError as error:
                    self._leave_out(place, error)
        raise DataError("no image of the set can be used")

    def _leave_out(self, row: int, error: DataError) -> None:
        self.bad[row] = True
        count = int(self.bad.sum())
        if count > self.budget:
            raise DataError(
                f"{count} of {len(self)} images cannot be used, and `data.bad_samples: skip` allows {self.budget} "
                f"({100 / ONE_IN:g} %, at least 1): {error}. `detseg check --decode` with the folder lists all of them"
            ) from None
        log.warning("left out, %d of at most %d images: %s", count, self.budget, error)
