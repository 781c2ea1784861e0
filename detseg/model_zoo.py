"""Models of torchvision by their names there, with its weights, built as ``configs/torchvision`` describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torchvision
import yaml
from torch import Tensor

import detseg
from detseg.configurable import Configurable, from_config, subclasses
from detseg.data.formats.voc.semantic import VOC_CLASSES
from detseg.data.transforms.transform import preprocessing_of
from detseg.errors import CheckpointError, ConfigError
from detseg.models import DilatedFCN, FasterRCNN, MaskRCNN, RetinaNet
from detseg.models.dilated_fcn import AUXILIARY_WEIGHT
from detseg.models.model import Model
from detseg.modules import FPN
from detseg.modules.backbones import MobileNetV3, ResNet
from detseg.weights.state_dict import COUNT, fetch, read_weights, state_dict_mismatch
from detseg.weights.torchvision import (
    COCO,
    PUBLISHED,
    epsilon,
    from_torchvision,
    num_labels,
    published,
    segmenter_from_torchvision,
    segmenter_to_torchvision,
)

# By the blocks of the third stage, and whether these have a bottleneck.
RESNETS = {
    (2, False): "resnet18",
    (6, False): "resnet34",
    (6, True): "resnet50",
    (23, True): "resnet101",
    (36, True): "resnet152",
}
FCNS = {"resnet50": "fcn_resnet50", "resnet101": "fcn_resnet101"}  # by their backbones
NAMES = (*PUBLISHED, *FCNS.values())
# Imported, so that configurations can name them.
PARTS = (FasterRCNN, MaskRCNN, RetinaNet, FPN, ResNet, MobileNetV3)


def load_torchvision(name: str, file: str | Path | None = None, class_names: Sequence[str] | None = None) -> Model:
    """Build a model that torchvision calls ``name``, such as ``maskrcnn_resnet50_fpn``, with its weights.

    Weights are torchvision's published ones, or those of a ``file`` with a state dict. ``class_names``, of a detector
    without the background, are by default COCO's; of a segmenter VOC's.

    Raises ConfigError for a name that there is not, and for class names that are too few or too many; CheckpointError
    for weights that cannot be read or fetched, or are of another model.
    """
    if name not in NAMES:
        raise ConfigError(f"torchvision:{name}: there is {', '.join(NAMES)}")
    state = read_weights(file) if file else fetch(torchvision.models.get_model_weights(name).DEFAULT)
    try:
        if name in FCNS.values():
            return segmenter(state, class_names)
        return detector(name, state, class_names, published(file) if file else name)
    except CheckpointError as error:
        raise CheckpointError(f"{file or name}: {error}") from error


def detector(
    name: str, state: Mapping[str, Tensor], class_names: Sequence[str] | None, published_as: str | None
) -> FasterRCNN | RetinaNet:
    """Build a detector with a ``state`` dict of torchvision's ``name``; ``published_as``: its COCO weights, if any."""
    if not num_labels(state):
        raise CheckpointError(f"holds {next(iter(state), 'nothing')}, but not the weights of {name}")
    classes, labels = _detector_classes(num_labels(state) - 1, class_names)
    settings = config(name)
    description = describe(settings["model"])
    del description["init_args"]["weights"]
    body = description["init_args"]["backbone"]["init_args"]["backbone"]["init_args"]
    if body["name"] == "resnet50":
        body["name"] = _resnet(state, "backbone.body.")
    body["norm"] = "batch" if any(key.endswith(COUNT) for key in state) else "frozen"
    body["eps"] = epsilon(state, published_as)
    model: FasterRCNN | RetinaNet = from_config(description, num_classes=len(classes))
    renamed = from_torchvision(state, labels)
    if mismatch := state_dict_mismatch(renamed, model.state_dict()):
        raise CheckpointError(f"not the weights of {name}: {mismatch}")
    model.load_state_dict(renamed, strict=False)  # counts of batch norm may be missing
    model.class_names, model.category_ids = classes, labels  # torchvision's labels are the data set's ids
    transforms = settings["data"]["init_args"].get("transforms", ["Resize"])  # as data modules by default
    model.preprocessing = preprocessing_of(from_config(describe(transforms)))
    return model


def segmenter(state: Mapping[str, Tensor], class_names: Sequence[str] | None) -> DilatedFCN:
    """Build an FCN on a dilated ResNet with a ``state`` dict of torchvision's."""
    renamed = segmenter_from_torchvision(state)
    name = _resnet(state, "backbone.")
    if name not in FCNS:
        raise CheckpointError(f"its FCN is on {name}, and torchvision's are on {' and '.join(FCNS)}")
    count = len(renamed["head.4.weight"])
    backbone = ResNet(name, stages=[4, 5], norm="batch", output_stride=8)  # type: ignore[arg-type]
    auxiliary = any(key.startswith("aux_classifier.") for key in state)
    model = DilatedFCN(backbone, count, AUXILIARY_WEIGHT if auxiliary else 0.0)
    if mismatch := state_dict_mismatch(state, segmenter_to_torchvision(model.state_dict())):
        raise CheckpointError(f"not the weights of {FCNS[name]} for {count} classes: {mismatch}")
    model.load_state_dict(renamed, strict=False)  # as above
    if class_names is None and count != len(VOC_CLASSES):
        raise ConfigError(f"class_names: the model has {count} classes, and VOC {len(VOC_CLASSES)}; name them all")
    model.class_names = tuple(VOC_CLASSES if class_names is None else class_names)
    if len(model.class_names) != count:
        raise ConfigError(
            f"class_names: the model has {count} classes, the names are {len(model.class_names)}; name them all, the "
            "background too"
        )
    model.category_ids = tuple(range(count))
    return model


def config(name: str) -> dict[str, Any]:
    """Read the configuration of a detector of torchvision's."""
    package = Path(detseg.__file__).parent
    files = [folder / "configs" / "torchvision" / f"{name}.yaml" for folder in (package.parent, package)]
    settings: dict[str, Any] = yaml.safe_load(
        next(file for file in files if file.is_file()).read_text(encoding="utf-8")
    )
    return settings


def describe(settings: Any) -> Any:
    """Turn settings of a configuration file into a description for ``from_config``."""
    if isinstance(settings, dict) and "class_path" in settings:
        return {"class": settings["class_path"], "init_args": describe(settings.get("init_args", {}))}
    if isinstance(settings, dict):
        return {key: describe(value) for key, value in settings.items()}
    if isinstance(settings, list):  # of transforms, say, in which a class without arguments is a bare name
        names = {cls.__name__ for cls in subclasses(Configurable)}
        return [
            describe({"class_path": value} if isinstance(value, str) and value in names else value)
            for value in settings
        ]
    return settings


def _detector_classes(count: int, class_names: Sequence[str] | None) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The names of the classes and torchvision's labels of them: COCO's, or those of ``class_names``."""
    if class_names is None and count == max(COCO.values()):
        return tuple(COCO), tuple(COCO.values())
    if class_names is None or len(class_names) != count:
        number = 0 if class_names is None else len(class_names)
        raise ConfigError(f"class_names: the model has {count} classes, the names are {number}; name them all")
    return tuple(class_names), tuple(range(1, count + 1))


def _resnet(state: Mapping[str, Tensor], prefix: str) -> str:
    """Name the ResNet whose tensors have names that begin with ``prefix``."""
    blocks = {key.removeprefix(prefix).split(".")[1] for key in state if key.startswith(f"{prefix}layer3.")}
    name = RESNETS.get((len(blocks), f"{prefix}layer1.0.conv3.weight" in state))
    if name is None:
        raise CheckpointError(f"its backbone is none of {', '.join(RESNETS.values())}")
    return name
