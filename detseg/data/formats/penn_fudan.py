"""The Penn-Fudan database of pedestrians (Wang et al. 2007), as it is published."""

from __future__ import annotations

from pathlib import Path

from detseg.data.annotations.builder import Builder
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.images import read_numbers
from detseg.data.annotations.issues import FAIL_FAST, IssueCollector
from detseg.data.annotations.masks import MaskReading
from detseg.data.formats.base import WHOLE, DatasetFormat, DatasetSource
from detseg.data.formats.layout import Tree
from detseg.errors import DataError

CLASS = "pedestrian"


class PennFudanFormat(DatasetFormat):
    """Folders PNGImages and PedMasks, in the folder or in PennFudanPed below it."""

    name = "PennFudan"
    tasks = ("detection", "instance_segmentation")
    marks = "folders PNGImages and PedMasks"

    def detect(self, tree: Tree) -> list[DatasetSource]:
        """Detect a folder with both."""
        for root in (tree.root, tree.root / "PennFudanPed"):
            if (root / "PNGImages").is_dir() and (root / "PedMasks").is_dir():
                return [DatasetSource(self, tree, root, {WHOLE: root})]
        return []

    def read(
        self, source: DatasetSource, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
    ) -> DetectionAnnotations:
        """Read the images and masks."""
        return read_penn_fudan(source.splits[split], issues).with_masks(masks, {}, issues)


def read_penn_fudan(root: Path, issues: IssueCollector = FAIL_FAST) -> DetectionAnnotations:
    """Read PNGImages and PedMasks below ``root``: in a mask, 1 is the first pedestrian, 2 the next.

    Raises DataError for missing or broken files.
    """
    builder = Builder(root, root, issues)
    files = sorted((root / "PNGImages").glob("*.png"))
    if not files:
        raise DataError(f"{root}: it has no PNGImages")
    for file in files:
        mask = root / "PedMasks" / f"{file.stem}_mask.png"
        try:
            numbers = read_numbers(mask)
        except DataError as error:
            issues.report("label-broken", mask, str(error), image=file)
            continue
        image = builder.image(f"PNGImages/{file.name}")
        if numbers.shape != builder.sizes[image]:
            message = f"{root}: the mask of {file.name} has another size than the image"
            issues.report("image-size", mask, message, image=file)
        else:
            builder.add_instances(image, numbers, lambda number: (CLASS, False) if number else None)
    return builder.annotations({CLASS: 1})
