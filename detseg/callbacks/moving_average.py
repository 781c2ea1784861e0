"""The exponential moving average of a model's weights."""

from __future__ import annotations

from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


def exponential_moving_average(decay: float) -> WeightAveraging:
    """Average weights and batch statistics after each step, for validation and for checkpoints.

    The update is ``average + (1 - decay) (weight - average)``, which leaves a constant as it is. Lightning's
    EMAWeightAveraging rounds ``decay average + (1 - decay) weight``, so that the anchors and the normalisation of
    images, which are buffers too, would drift from step to step, and return to their values when a training is resumed.
    """
    return WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
