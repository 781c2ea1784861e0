"""A predictor from a checkpoint, a published folder or torchvision's weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from detseg import checkpoint
from detseg.inference.predictor import Predictor
from detseg.inference.tiling import Tiling
from detseg.inference.views import build_predictor
from detseg.model_zoo import load_torchvision
from detseg.models.model import Model
from detseg.models.tta import TTAConfig
from detseg.weights import hub

TORCHVISION = "torchvision:"


def load(
    source: str | Path | Sequence[str | Path],
    device: str | torch.device | None = None,
    tta: TTAConfig | None = None,
    class_names: Sequence[str] | None = None,
    tiling: Tiling | None = None,
) -> Predictor:
    """Load a model to predict with: ``detseg.load("runs/my_run/best.ckpt")("photo.jpg")``.

    ``source`` is a checkpoint, a folder that ``detseg publish`` wrote, ``"hf://user/name@revision"`` for one on the
    Hugging Face Hub, or a model of torchvision's with its published weights, ``"torchvision:maskrcnn_resnet50_fpn"``,
    or those of a file, ``"torchvision:maskrcnn_resnet50_fpn=FILE"``; ``class_names`` are the names of that file's
    classes, by default COCO's (without the background) or VOC's. Several sources are an ensemble.
    ``device`` is by default a GPU if there is one; ``tta`` and ``tiling`` are those of ``build_predictor``.

    Raises CheckpointError for a source that is missing, damaged or of another program, ConfigError for a name or a
    number of class names that does not fit, or for models that do not fit together.
    """
    sources = [source] if isinstance(source, (str, Path)) else source
    models = [load_model(one, class_names) for one in sources]
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    for model in models:
        model.to(target).to(memory_format=torch.channels_last)
    return build_predictor(models, tta, tiling)


def load_model(source: str | Path, class_names: Sequence[str] | None = None) -> Model:
    """Load a model from a source of ``load``."""
    if str(source).startswith(TORCHVISION):
        name, _, file = str(source).removeprefix(TORCHVISION).partition("=")
        return load_torchvision(name, file or None, class_names)
    return checkpoint.load_model(hub.download(str(source)) if str(source).startswith(hub.SCHEME) else source)
