"""The embedded data set, for semantic segmentation."""

from __future__ import annotations

from pathlib import Path

from detseg.data.annotations.semantic import SemanticAnnotations
from detseg.data.loading.bad_samples import BadSamples
from detseg.data.modules.shapes import Shapes
from detseg.data.modules.shapes_generator import CLASSES
from detseg.data.modules.voc_segmentation import VOCSegmentation
from detseg.data.splits import Split
from detseg.data.transforms.segmentation import SegmentationTransforms


class ShapesSegmentation(VOCSegmentation):
    """The pictures of ``Shapes``, drawn into ``root`` where missing, with the background as the first class.

    As in VOC, the outlines of the shapes are void. Raises DataError as ``Shapes`` does.
    """

    default_classes = ("background", *CLASSES)

    def __init__(
        self,
        root: str = "datasets/shapes",
        train: int = 400,
        val: int = 100,
        seed: int = 0,
        transforms: SegmentationTransforms | None = None,
        batch_size: int = 4,
        workers: int = 2,
        bad_samples: BadSamples = "error",
    ) -> None:
        super().__init__(
            str(Path(root) / "voc"),
            transforms=transforms or SegmentationTransforms(crop=128),
            batch_size=batch_size,
            workers=workers,
            bad_samples=bad_samples,
        )
        self.shapes = Shapes(root, train, val, seed)

    def read(self, split: Split) -> SemanticAnnotations:
        """Find the images of a split, drawing the data set first if need be."""
        self.shapes.prepare()
        return super().read(split)
