"""TIFF files of any size, read region by region through tifffile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.annotations.images import max_pixels
from detseg.errors import DataError
from detseg.inference.images import ImageArray

TIFF = (".tif", ".tiff")


class TiffRegions:
    """The first image of a TIFF file, RGB or grey in 8 bits, as an array of which parts are read when asked for.

    Raises DataError, naming the file, for a part that cannot be read.
    """

    def __init__(self, path: Path, file: Any) -> None:
        self.path, self.page = path, file.pages[0]  # of a whole slide, the full resolution
        self.shape: tuple[int, ...] = (self.page.imagelength, self.page.imagewidth, 3)
        self.tile = self.page.tilelength or self.page.rowsperstrip, self.page.tilewidth or self.page.imagewidth
        self.across, self.down = (-(-self.shape[1] // self.tile[1]), -(-self.shape[0] // self.tile[0]))
        self._strips: tuple[tuple[int, int], NDArray[np.uint8]] | None = None

    def __getitem__(self, window: tuple[slice, slice]) -> ImageArray:
        """Read rows and columns as (h, w, 3)."""
        rows, columns = window
        if self.page.is_tiled:
            return self._read(rows.start, rows.stop, columns.start, columns.stop)
        # A strip is as wide as the image: keep those of the last rows for the next tile beside it.
        key = rows.start, rows.stop
        if self._strips is None or self._strips[0] != key:
            self._strips = None
            self._strips = key, self._read(*key, 0, self.shape[1])
        return self._strips[1][:, columns]

    def _read(self, top: int, bottom: int, left: int, right: int) -> ImageArray:
        height, width = self.tile
        region = np.zeros((bottom - top, right - left, 3), dtype=np.uint8)
        for row in range(top // height, -(-bottom // height)):
            for column in range(left // width, -(-right // width)):
                y, x = row * height, column * width
                part = self._decode(row * self.across + column)
                if part is None:  # left out of the file: black
                    continue
                part = part[max(0, top - y) : bottom - y, max(0, left - x) : right - x]
                y, x = max(top, y) - top, max(left, x) - left
                region[y : y + part.shape[0], x : x + part.shape[1]] = part[..., :3]
        return region

    def _decode(self, index: int) -> NDArray[np.uint8] | None:
        file, page = self.page.parent.filehandle, self.page
        try:
            file.seek(page.dataoffsets[index])
            data = file.read(page.databytecounts[index])
            segment = page.decode(data or None, index, jpegtables=page.jpegtables)[0]
        except Exception as error:  # each decoder has its own
            raise DataError(f"{self.path}: cannot read this image: {error}") from None
        return None if segment is None else segment[0]


def open_regions(source: Any) -> TiffRegions | None:
    """Open a TIFF file to be read region by region; None for one that cannot be, or without tifffile or a decoder."""
    if not isinstance(source, Path) or source.suffix.lower() not in TIFF:
        return None
    try:
        from tifffile import TiffFile
    except ImportError:
        return None
    try:
        regions = TiffRegions(source, TiffFile(source))
        page, segments = regions.page, regions.across * regions.down
        plain = page.bitspersample == 8 and page.planarconfig == 1 and page.photometric in (1, 2, 6)
        plain = plain and page.samplesperpixel in (1, 3, 4) and 1 < segments == len(page.dataoffsets)
        plain = plain and regions.tile[0] * regions.tile[1] <= max_pixels()
        if not plain or page.tags.valueof(274, default=1) != 1:  # turned by its orientation
            return None
        height, width = regions.shape[:2]
        regions[slice(0, min(1, height)), slice(0, min(1, width))]  # a compression without a decoder fails here
    except Exception:  # of a damaged file, which is reported where it is read as a whole
        return None
    return regions
