"""Speed of predictions on files, from their names to lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from benchmarks.data import HEIGHT, WIDTH, photograph, temporary
from benchmarks.detectors import CLASSES, Shape, calibrate, models
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.misc import FrozenBatchNorm2d
from torchvision.transforms.functional import pil_to_tensor

from detseg.inference import Predictor
from detseg.inference.batching import map_ahead
from detseg.inference.pictures import PictureWriter
from detseg.inference.predictor import thread_count
from detseg.inference.result_files import ResultsWriter
from detseg.models import FasterRCNN
from detseg.modules import FPN
from detseg.modules.backbones import MobileNetV2
from detseg.preprocessing import ResizeConfig
from detseg.weights.torchvision import from_torchvision

Call = Callable[[], object]


class Files(Dataset[Tensor]):
    """Image files as torchvision's detectors take them."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> Tensor:
        return pil_to_tensor(Image.open(self.names[row]).convert("RGB")) / 255


def predict(device: str, half: bool, images: int, backbone: str) -> dict[str, Call]:
    """Objects in JPEG files of 480 x 640, in batches of one on a CPU, of eight on a GPU.

    ``one by one`` reads, computes and draws each image in turn and keeps all results, as the command did before it
    streamed; ``not drawn`` is the same without pictures. The workers of a DataLoader read torchvision's files.
    """
    sides: dict[str, Any] = resnet(device) if backbone == "resnet50" else mobilenet(device)
    sides["detseg"].preprocessing = ResizeConfig(HEIGHT, WIDTH)
    predictor, theirs = Predictor(sides["detseg"]), sides["torchvision"].eval()
    folder = temporary()
    random = np.random.default_rng(0)
    names = [str(photograph(folder / f"{number}.jpg", random)) for number in range(images)]
    batch_size = 1 if device == "cpu" else 8
    workers = thread_count(None)

    def streamed() -> None:
        writer = ResultsWriter(folder / "predictions.jsonl")
        results = predictor.stream(map(Path, names), batch_size, bad_images="result")
        for entry in map_ahead(PictureWriter(folder, {}, ()).save, results, workers):
            writer.append(entry)
        writer.close()

    def one_by_one(draw: bool) -> None:
        entries = []
        for result in predictor.stream(map(Path, names), 1, num_workers=0):
            if draw:
                result.plot().save(folder / f"drawn_{result.path.name}")
            entries.append(result.to_json())
        (folder / "predictions.json").write_text(json.dumps(entries), encoding="utf-8")

    @torch.inference_mode()
    def torchvision_loop() -> None:
        loader: Any = DataLoader(Files(names), batch_size, num_workers=workers, collate_fn=list)
        entries = []
        for batch in loader:
            outputs = theirs([image.to(device) for image in batch])
            entries += [{name: value.tolist() for name, value in output.items()} for output in outputs]
        (folder / "theirs.json").write_text(json.dumps(entries), encoding="utf-8")

    next(iter(predictor.stream(names[0])))  # what is made once
    return {
        "detseg": streamed,
        "one by one": lambda: one_by_one(True),
        "not drawn": lambda: one_by_one(False),
        "torchvision": torchvision_loop,
    }


def resnet(device: str) -> dict[str, nn.Module]:
    """Faster R-CNN R50-FPN of both sides."""
    return models(device, Shape(1, HEIGHT, WIDTH))


def mobilenet(device: str) -> dict[str, nn.Module]:
    """Faster R-CNN on MobileNetV2 with a feature pyramid of four maps, with the same random weights."""
    torch.manual_seed(0)
    features = torchvision.models.mobilenet_v2(norm_layer=FrozenBatchNorm2d).features
    layers = {"3": "0", "6": "1", "13": "2", "18": "3"}
    pyramid = BackboneWithFPN(features, layers, [24, 32, 96, 1280], 256)
    theirs = TorchvisionFasterRCNN(pyramid, CLASSES + 1, min_size=HEIGHT, max_size=WIDTH)
    with torch.no_grad():
        images = torch.rand(1, 3, HEIGHT, WIDTH) * 4 - 2
        calibrate(pyramid.body, images)
        for layer, feature in zip(pyramid.fpn.layer_blocks, pyramid(images).values(), strict=False):
            layer[0].weight /= feature.std()
    theirs.roi_heads.box_predictor.cls_score.weight.data.normal_(std=0.15)
    ours = FasterRCNN(FPN(MobileNetV2(norm="frozen")), CLASSES)
    ours.load_state_dict(from_torchvision(theirs.state_dict()))
    layout: dict[str, Any] = {"device": device, "memory_format": torch.channels_last}
    return {"detseg": ours.to(**layout), "torchvision": theirs.to(**layout)}
