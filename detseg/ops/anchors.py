"""The anchors of one cell of a feature map (Faster R-CNN, section 3.1.1; FPN, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ASPECT_RATIOS = (0.5, 1.0, 2.0)  # height over width
SCALE = 8  # square root of the area of the anchors on a pyramid, in strides of their level


def base_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float] = ASPECT_RATIOS) -> NDArray[np.float32]:
    """Compute the anchors (n, 4), centred on the origin, of all ``aspect_ratios`` and ``sizes``, ratio by ratio."""
    height = np.sqrt(np.array(aspect_ratios, dtype=np.float32))[:, None]
    side = np.array(sizes, dtype=np.float32)[None]
    widths, heights = (side / height).ravel(), (side * height).ravel()
    # Whole pixels as in torchvision, so that its published weights give the same boxes.
    return (np.stack([-widths, -heights, widths, heights], axis=1) / 2).round().astype(np.float32)
