"""The Penn-Fudan database of pedestrians (Wang et al. 2007), as it is published."""

from __future__ import annotations

from pathlib import Path

from detseg.data.annotations.builder import Builder
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.annotations.instance_id_maps import add_objects, read_instance_ids
from detseg.errors import DataError

CLASS = "pedestrian"


def read_penn_fudan(root: Path) -> DetectionAnnotations:
    """Read PNGImages and PedMasks below ``root``: in a mask, 1 is the first pedestrian, 2 the next.

    Raises DataError for missing or broken files.
    """
    builder = Builder(root, root)
    files = sorted((root / "PNGImages").glob("*.png"))
    if not files:
        raise DataError(f"{root}: it has no PNGImages")
    for file in files:
        numbers = read_instance_ids(root / "PedMasks" / f"{file.stem}_mask.png")
        image = builder.image(f"PNGImages/{file.name}")
        if numbers.shape != builder.sizes[image]:
            raise DataError(f"{root}: the mask of {file.name} has another size than the image")
        add_objects(builder, image, numbers, lambda number: (CLASS, False) if number else None)
    return builder.annotations({CLASS: 1})
