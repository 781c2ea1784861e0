"""A predictor from a checkpoint, a published folder or torchvision's weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from detseg import checkpoint
from detseg.inference.predictor import Predictor
from detseg.model_zoo import load_torchvision
from detseg.models.tta import TTAConfig
from detseg.weights import hub

TORCHVISION = "torchvision:"


def load(
    source: str | Path,
    device: str | torch.device | None = None,
    tta: TTAConfig | None = None,
    class_names: Sequence[str] | None = None,
) -> Predictor:
    """Load a model to predict with: ``detseg.load("runs/my_run/best.ckpt")("photo.jpg")``.

    ``source`` is a checkpoint, a folder that ``detseg publish`` wrote, ``"hf://user/name@revision"`` for one on the
    Hugging Face Hub, or a model of torchvision's with its published weights, ``"torchvision:maskrcnn_resnet50_fpn"``,
    or those of a file, ``"torchvision:maskrcnn_resnet50_fpn=FILE"``; ``class_names`` are the names of that file's
    classes, by default COCO's (without the background) or VOC's.
    ``device`` is by default a GPU if there is one; ``tta`` is the test-time augmentation of a segmenter.

    Raises CheckpointError for a source that is missing, damaged or of another program, ConfigError for a name or a
    number of class names that does not fit.
    """
    if str(source).startswith(TORCHVISION):
        name, _, file = str(source).removeprefix(TORCHVISION).partition("=")
        model = load_torchvision(name, file or None, class_names)
    else:
        model = checkpoint.load(hub.download(str(source)) if str(source).startswith(hub.SCHEME) else source).model
    model.to(torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")))
    return Predictor(model.to(memory_format=torch.channels_last), tta)
