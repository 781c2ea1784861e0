"""Write the page of the model zoo: a row for each configuration, with published and measured accuracy.

    python tools/model_zoo.py > docs/model_zoo.md

Models, data and weights are read from the configurations, accuracy and licences of torchvision's weights from
torchvision. Other published figures, and those measured here, are in the two tables below, each with its source.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torchvision
import yaml

from detseg.cli.models import LICENCE

CONFIGS = Path(__file__).parents[1] / "configs"
HEAD = """\
# Model zoo

Every configuration of `configs/` with its published accuracy and that measured here; a dash where there is none. The
page is written by `tools/model_zoo.py`. AP and IoU are in per cent.

    detseg train --config faster_rcnn_r50.yaml
    detseg train --config torchvision/fasterrcnn_resnet50_fpn.yaml --data my/folder

Published figures are those of the paper, or of the implementation that is named, with its data and schedule: a training
should come near them, but nothing has been trained on COCO, VOC or ImageNet here yet. Weights have torchvision's names;
they are downloaded at the first use, and their hash is checked. The terms of ImageNet and COCO also hold for weights
that were trained with them. `detseg models` lists the weights of all backbones.

| configuration | model | backbone | data | published | measured here | weights at the start (licence) |
|---|---|---|---|---|---|---|
"""

DETECTRON2 = "[detectron2](https://github.com/facebookresearch/detectron2/blob/main/MODEL_ZOO.md)"
FCN_CODE = "[authors' code](https://github.com/shelhamer/fcn.berkeleyvision.org), with SBD's images"
PUBLISHED = {
    "rcnn_alexnet_voc": "AP50 58.5, VOC 2007 test ([paper](https://arxiv.org/abs/1311.2524), table 2)",
    "fast_rcnn_vgg16_voc": "AP50 66.9, VOC 2007 test ([paper](https://arxiv.org/abs/1504.08083), table 1)",
    "faster_rcnn_r50": f"AP 37.9 ({DETECTRON2}, R50-FPN 1x)",
    "faster_rcnn_r50_c4": f"AP 35.7 ({DETECTRON2}, R50-C4 1x)",
    "mask_rcnn_r50": f"AP 38.6, of masks 35.2 ({DETECTRON2}, R50-FPN 1x)",
    "mask_rcnn_r50_c4": f"AP 36.8, of masks 32.2 ({DETECTRON2}, R50-C4 1x)",
    "retinanet_r50": f"AP 37.4 ({DETECTRON2}, R50 1x)",
    "fcn32s_vgg16_voc": f"mean IoU 63.6, part of VOC 2011 val ({FCN_CODE})",
    "fcn16s_vgg16_voc": f"mean IoU 65.0, part of VOC 2011 val ({FCN_CODE})",
    "fcn8s_vgg16_voc": f"mean IoU 65.5, part of VOC 2011 val ({FCN_CODE})",
}
CLASSIFIERS = {"resnet50_imagenet": "IMAGENET1K_V1", "vgg16_imagenet": "IMAGENET1K_V1"}  # trained with the same recipe
DEFAULT_NAMES = {"AlexNet": "alexnet", "MobileNetV2": "mobilenet_v2"}  # classes without an argument `name`

# Section of docs/benchmarks.md, and text
RACCOON = "the-history-of-region-based-detectors"
MEASURED = {
    "faster_rcnn_shapes": ("the-first-training", "AP 30.0 to 41.1 in four runs"),
    "mask_rcnn_shapes": ("learning-against-torchvision", "AP of masks 37.7, of boxes 41.8, mean of 3 seeds"),
    **{
        f"degradation_{name}": (
            "degradation-deeper-plain-networks-fit-worse",
            f"training error {error} %, mean of 3 seeds",
        )
        for name, error in (("plain18", 48.6), ("plain34", 75.2), ("resnet18", 19.2), ("resnet34", 14.8))
    },
    "fcn_shapes": ("segmentation-on-camvid", "mean IoU 35.7"),
    "fcn8s_mobilenet_v2_camvid": ("segmentation-on-camvid", "mean IoU 68.9, test 59.8"),
    "history_rcnn": (RACCOON, "raccoons: AP 43.1, AP50 90.7"),
    "history_fast_rcnn": (RACCOON, "raccoons: AP 53.5, AP50 95.9"),
    "history_faster_rcnn": (RACCOON, "raccoons: AP 48.2, AP50 91.7"),
}
METRICS = {"box_map": "AP", "mask_map": "of masks", "acc@1": "top-1"}


def chain(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the backbone of a model or pyramid, and that backbone's backbone."""
    if isinstance(backbone := part["init_args"].get("backbone"), dict):
        yield backbone
        if "init_args" in backbone:
            yield from chain(backbone)


def describe(path: Path) -> str:
    """Write the row of a configuration."""
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    name = path.relative_to(CONFIGS).with_suffix("").as_posix()
    *necks, backbone = chain(config["model"])
    arguments = backbone["init_args"]
    network = arguments.get("name") or DEFAULT_NAMES.get(backbone["class_path"], backbone["class_path"])
    data = config["data"]
    data = yaml.safe_load((CONFIGS / data).read_text(encoding="utf-8")) if isinstance(data, str) else data
    weights = config["model"]["init_args"].get("weights") or arguments.get("weights") or "random"
    published = PUBLISHED.get(name, "-")
    if weights.startswith("torchvision:"):
        published = torchvision_metrics(path.stem, "COCO_V1")
        weights = f"`{weights}` ({licence(path.stem, 'COCO_V1')})"
    elif weights.startswith("IMAGENET"):
        weights = f"`{network}` `{weights}` ({licence(network, weights)})"
    elif weights != "random":
        weights = f"`{weights}`"
    if name in CLASSIFIERS:
        published = torchvision_metrics(network, CLASSIFIERS[name])
    section, measured = MEASURED.get(name, ("", "-"))
    cells = [
        f"`{name}`",
        config["model"]["class_path"],
        ", ".join([network, *(neck["class_path"] for neck in necks)]),
        Path(data["init_args"]["root"]).name,
        published,
        f"[{measured}](benchmarks.md#{section})" if section else measured,
        weights,
    ]
    return f"| {' | '.join(cells)} |"


def licence(model: str, weights: str) -> str:
    """Return the licence of weights of torchvision's, which is its own where they name no other."""
    return str(torchvision.models.get_model_weights(model)[weights].meta.get("license", LICENCE))


def torchvision_metrics(model: str, weights: str) -> str:
    """Write the metrics that torchvision publishes for its weights."""
    (metrics,) = torchvision.models.get_model_weights(model)[weights].meta["_metrics"].values()
    texts = [f"{label} {metrics[key]:.1f}" for key, label in METRICS.items() if key in metrics]
    return f"{', '.join(texts)} (torchvision's `{weights}`)"


def page() -> str:
    """Write the page in Markdown."""
    rows = [describe(path) for folder in ("", "torchvision") for path in sorted((CONFIGS / folder).glob("*.yaml"))]
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(page(), end="")
