"""Recall of proposals, whatever the classes of the objects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from detseg.ops.boxes import iou

THRESHOLDS = np.arange(10) * 0.05 + 0.5


def proposal_recall(annotations: Any, proposals: Iterable[NDArray[np.float32]]) -> dict[str, float]:
    """``recall50`` and ``recall70``, the shares of objects with a box of an IoU of at least .5 and .7, and ``AR``.

    ``proposals`` are the boxes (N, 4), xyxy, of each image of ``annotations``, a ``DetectionAnnotations``. AR is the
    mean of the recalls at .5, .55 ... .95, for the area under the curve of Hosang et al. 2016. Crowds and difficult
    objects do not count; if no object does, all are NaN.
    """
    best = [np.zeros(0)]
    for row, boxes in enumerate(proposals):
        objects = annotations.objects(row)
        counted = ~(annotations.crowd[objects] | annotations.difficult[objects])
        truth = torch.from_numpy(annotations.boxes[objects][counted])
        overlaps = iou(truth, torch.from_numpy(boxes).double()).numpy()
        best.append(overlaps.max(axis=1, initial=0))
    overlaps = np.concatenate(best)
    if not len(overlaps):
        return dict.fromkeys(("recall50", "recall70", "AR"), float("nan"))
    recalls = (overlaps[:, None] >= THRESHOLDS).mean(axis=0)
    return {
        "recall50": float(recalls[0]),
        "recall70": float(recalls[4]),
        "AR": float(recalls.mean()),
    }
