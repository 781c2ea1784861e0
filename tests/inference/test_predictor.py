"""Predictions against torchvision's own models with the same random weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.testing import assert_close
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import functional

import detseg
from detseg import checkpoint, cli
from detseg.errors import CheckpointError, ConfigError, DataError
from detseg.inference import DetectionResult, FailedImage, Predictor, TTAConfig
from detseg.inference.preprocessing import preprocess
from detseg.models import Classifier
from detseg.modules.backbones import ResNet
from detseg.preprocessing import CenterCropConfig, ResizeConfig
from detseg.tasks import DetectionTask
from detseg.weights.torchvision import COCO
from tests.colours import COLOURS, IDS, ColourDetector, colours, write_colours
from tests.weights.test_published import random_state

NAME = "maskrcnn_resnet50_fpn"
SIZES = [(96, 128), (128, 96), (96, 96)]  # of the short and the long edge that the models resize to
PROPOSALS, DETECTIONS = 60, 20  # an image; of 1000 and 100, which take most of the time
OTHER_SIZES = [(50, 90), (130, 90), (30, 30)]


def images(sizes: list[tuple[int, int]]) -> list[NDArray[np.uint8]]:
    generator = np.random.default_rng(2)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def normalize(image: Tensor) -> Tensor:
    return functional.normalize(image / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def paste(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Masks (n, h, w) of probabilities (n, 1, S, S) over boxes, sampled at the centres of the pixels."""
    y, x = (torch.arange(length, dtype=torch.float64) + 0.5 for length in size)
    x1, y1, x2, y2 = boxes[:, :, None].unbind(dim=1)
    across, down = 2 * (x - x1) / (x2 - x1) - 1, 2 * (y - y1) / (y2 - y1) - 1
    grid = torch.stack(torch.broadcast_tensors(across[:, None, :], down[:, :, None]), dim=-1)
    sampled = torch.nn.functional.grid_sample(masks, grid, align_corners=False)
    return (sampled[:, 0] >= 0.5).numpy()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Predictor]:
    """torchvision's Mask R-CNN and a predictor with the same weights, in double precision."""
    file = tmp_path_factory.mktemp("weights") / "state.pth"
    torch.save(random_state(NAME), file)
    theirs = torchvision.models.get_model(
        NAME, weights=None, weights_backbone=None, num_classes=91, min_size=96, max_size=128
    )
    theirs.load_state_dict(torch.load(file))
    theirs.transform.postprocess = lambda results, *_: results  # no image is resized, and masks stay as the head's
    predictor = detseg.load(f"torchvision:{NAME}={file}", device="cpu")
    assert predictor.model.preprocessing == ResizeConfig(800, 1333)
    assert (theirs.transform.image_mean, theirs.transform.image_std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    predictor.model.preprocessing = ResizeConfig(96, 128)
    predictor.model.double()
    theirs.rpn._post_nms_top_n["testing"], theirs.roi_heads.detections_per_img = PROPOSALS, DETECTIONS
    predictor.model.rpn.post_nms_top_n = (PROPOSALS, PROPOSALS)
    predictor.model.roi_heads.postprocessor.detections_per_image = DETECTIONS
    for buffer, value in (("mean", theirs.transform.image_mean), ("std", theirs.transform.image_std)):
        for module in predictor.model.modules():
            if hasattr(module, buffer):  # made in single precision
                setattr(module, buffer, 255 * torch.tensor(value, dtype=torch.float64).view(3, 1, 1))
    return theirs.eval().double(), predictor


def test_detections_are_torchvisions(models: tuple[Any, Predictor]) -> None:
    theirs, predictor = models
    sources = images(SIZES)
    results = predictor(sources, batch_size=2, threshold=0.0)
    assert sum(map(len, results)) > 20
    for source, result in zip(sources, results, strict=True):
        with torch.inference_mode():
            (expected,) = theirs([torch.from_numpy(source).permute(2, 0, 1).double() / 255])
        labels = [list(COCO.values())[label] for label in result.labels]
        assert labels == expected["labels"].tolist()
        assert_close(torch.from_numpy(result.boxes), expected["boxes"].float(), rtol=1e-4, atol=1e-3)
        assert_close(torch.from_numpy(result.scores), expected["scores"].float(), rtol=1e-4, atol=1e-5)
        masks = paste(expected["masks"], expected["boxes"], source.shape[:2])
        assert masks.any()
        assert (masks == result.masks).mean() > 0.9999
        assert result.names == [list(COCO)[label] for label in result.labels]
        assert result.to_coco()[0]["category_id"] == labels[0]
    kept = predictor(sources[0], threshold=0.5)[0]
    assert len(kept) == (results[0].scores >= 0.5).sum() < len(results[0])


def test_a_result_does_not_depend_on_the_batch(models: tuple[Any, Predictor]) -> None:
    _, predictor = models
    sources = images(OTHER_SIZES)
    together = predictor([*sources, *sources], batch_size=4, threshold=0.0)
    for source, *results in zip(sources, together[: len(sources)], together[len(sources) :], strict=True):
        (alone,) = predictor(source, threshold=0.0)
        assert alone.image_size == source.shape[:2]
        for result in results:
            same(result, alone, tolerance=1e-4)


def test_path_pil_array_and_tensor_give_the_same_result(models: tuple[Any, Predictor], tmp_path: Path) -> None:
    _, predictor = models
    (source,) = images([(60, 70)])
    file = tmp_path / "a.png"
    Image.fromarray(source).save(file)
    tensor = torch.from_numpy(source).permute(2, 0, 1)
    results = predictor([source, file, Image.fromarray(source), tensor], batch_size=1, threshold=0.0)
    assert [result.path for result in results] == [None, file, None, None]
    for result in results[1:]:
        same(result, results[0])
    for source in (file, str(file), tmp_path, f"{tmp_path}/*.png"):
        (result,) = predictor(source, threshold=0.0)
        same(result, results[0])


def same(one: DetectionResult, other: DetectionResult, tolerance: float = 0.0) -> None:
    assert np.array_equal(one.labels, other.labels)
    np.testing.assert_allclose(one.boxes, other.boxes, atol=tolerance, rtol=tolerance)
    np.testing.assert_allclose(one.scores, other.scores, atol=tolerance, rtol=tolerance)
    assert one.masks is not None
    assert (one.masks != other.masks).sum() <= tolerance * one.masks.size


@pytest.mark.parametrize("size", [(50, 90), (300, 200), (97, 97), (40, 400)])
def test_images_are_resized_as_torchvision_does(size: tuple[int, int]) -> None:
    transform = GeneralizedRCNNTransform(96, 128, [0.0] * 3, [1.0] * 3)
    (source,) = images([size])
    source = np.sort(source, axis=1)  # smooth, for the sizes may differ by a pixel
    batch = transform([torch.from_numpy(source).permute(2, 0, 1) / 255])[0]
    (expected,) = batch.image_sizes
    resized = preprocess(source, ResizeConfig(96, 128)).image.permute(1, 2, 0).numpy()
    assert np.abs(np.subtract(resized.shape[:2], expected)).max() <= 1
    if resized.shape[:2] == tuple(expected):
        pixels = torch.from_numpy(resized).permute(2, 0, 1) / 255
        assert_close(pixels, batch.tensors[0, :, : expected[0], : expected[1]], atol=2 / 255, rtol=0)


def test_a_classifier_is_torchvisions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=10).eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    model = Classifier(ResNet("resnet18", weights=str(tmp_path / "resnet18.pth"), norm="batch"), 10)
    model.preprocessing = CenterCropConfig(56)
    sources = images([(64, 64), (64, 90)])
    for source, result in zip(sources, Predictor(model)(sources), strict=True):
        tensor = torchvision.transforms.functional.center_crop(
            torch.from_numpy(source).permute(2, 0, 1) / 255, [56, 56]
        )
        tensor = torchvision.transforms.functional.normalize(tensor, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        with torch.inference_mode():
            expected = theirs(tensor[None]).softmax(1)[0]
        assert result.labels.tolist() == expected.argsort(descending=True).tolist()
        assert_close(torch.from_numpy(result.scores), expected.sort(descending=True).values, rtol=1e-3, atol=1e-4)
        assert list(result.top_k(1)) == [f"class {int(expected.argmax())}"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a trained detector, and the folder that it is published in."""
    folder = tmp_path_factory.mktemp("predictor")
    write_colours(folder / "data")
    data = colours(folder / "data")
    task = DetectionTask(ColourDetector())
    task.model.class_names, task.model.category_ids = tuple(COLOURS), tuple(IDS.values())
    task.model.preprocessing, task.data_recipe = ResizeConfig(128, 160), detseg.configurable.to_config(data)
    checkpoint.save(task, folder / "best.ckpt")
    cli.main(["publish", str(folder / "best.ckpt"), "--out", str(folder / "published")])
    return folder


@pytest.mark.parametrize("name", ["best.ckpt", "published"])
def test_the_model_carries_all_that_a_prediction_needs(folder: Path, name: str) -> None:
    predictor = detseg.load(folder / name)
    assert predictor.class_names == tuple(COLOURS)
    assert predictor.model.preprocessing == ResizeConfig(128, 160)
    result = predictor(folder / "data" / "val" / "val2.png")[0]
    assert sorted(result.names) == ["blue", "green", "red"]
    assert {entry["category_id"] for entry in result.to_coco()} == set(IDS.values())
    x1, y1, x2, y2 = result.boxes[result.names.index("green")].round().astype(int)
    assert (result.image[y1:y2, x1:x2] == COLOURS["green"]).all()


def test_a_checkpoint_without_preprocessing_takes_that_of_its_data(folder: Path, tmp_path: Path) -> None:
    content = torch.load(folder / "best.ckpt", weights_only=True)
    del content["detseg"]["preprocessing"]
    torch.save(content, tmp_path / "old.ckpt")
    assert detseg.load(tmp_path / "old.ckpt").model.preprocessing == ResizeConfig(64, 64)
    content["detseg"]["preprocessing"] = {"min_size": -1, "max_size": 5}
    torch.save(content, tmp_path / "bad.ckpt")
    with pytest.raises(CheckpointError, match="min_size is -1"):
        detseg.load(tmp_path / "bad.ckpt")


def test_results_come_as_a_stream(folder: Path) -> None:
    read = 0

    def frames() -> Iterator[NDArray[np.uint8]]:
        nonlocal read
        frame = np.zeros((64, 64, 3), np.uint8)
        while True:
            frame[:] = 0
            frame[10:20, 5 : 25 + read % 30] = (255, 0, 0)
            read += 1
            yield frame

    stream = detseg.load(folder / "best.ckpt").stream(frames(), batch_size=4)
    for number, result in zip(range(10), stream, strict=False):
        assert result.boxes.round().tolist() == [[5, 10, 25 + number % 30, 20]]
    assert read <= 12


def test_a_bad_image_is_an_error_or_skipped(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    predictor = detseg.load(folder / "best.ckpt")
    (tmp_path / "bad.png").write_text("no image")
    sources = [folder / "data" / "val" / "val0.png", tmp_path / "bad.png", folder / "data" / "val" / "val1.png"]
    with pytest.raises(DataError, match=r"bad\.png: not an image"):
        predictor(sources)
    with caplog.at_level("ERROR"):
        results = list(predictor.stream(sources, bad_images="skip"))
    assert [result.path.name for result in results] == ["val0.png", "val1.png"]
    assert "bad.png: not an image" in caplog.text
    missing = [tmp_path / "missing.png", f"{tmp_path}/*.none"]
    results = list(predictor.stream([*sources, *missing], bad_images="result"))
    failed = [Path(result.file) for result in results if isinstance(result, FailedImage)]
    assert failed == [tmp_path / "bad.png", missing[0], tmp_path / "*.none"]


def test_the_model_keeps_its_mode_and_device(folder: Path) -> None:
    model = detseg.load(folder / "best.ckpt").model.train()
    seen = []
    model.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    Predictor(model)(np.zeros((64, 64, 3), np.uint8))
    assert seen == [False]
    assert model.training


def test_what_makes_no_sense_is_refused(folder: Path, tmp_path: Path) -> None:
    predictor = detseg.load(folder / "best.ckpt")
    with pytest.raises(ConfigError, match="batch_size 0"):
        predictor(folder / "data" / "val", batch_size=0)
    with pytest.raises(ConfigError, match="threshold 2"):
        predictor(folder / "data" / "val", threshold=2)
    with pytest.raises(ConfigError, match="ColourDetector is no segmenter"):
        Predictor(predictor.model, TTAConfig(flip=True))
    with pytest.raises(ConfigError, match="torchvision:fasterrcnn_resnet51: there is fasterrcnn_resnet50_fpn,"):
        detseg.load("torchvision:fasterrcnn_resnet51")
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth: holds fc\.weight, but not the weights of fasterrcnn"):
        detseg.load(f"torchvision:fasterrcnn_resnet50_fpn={tmp_path / 'other.pth'}")


def test_published_weights_are_fetched_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model("fcn_resnet50", weights=None, weights_backbone=None, aux_loss=True).eval()
    fetched = []

    def get_state_dict(weights: Any, *_: Any, **options: Any) -> dict[str, Tensor]:
        assert options["check_hash"]
        fetched.append(weights)
        return theirs.state_dict()

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", get_state_dict)
    predictor = detseg.load("torchvision:fcn_resnet50", device="cpu")
    assert fetched == [torchvision.models.get_model_weights("fcn_resnet50").DEFAULT]
    (source,) = images([(64, 96)])
    (result,) = predictor(source)
    tensor = normalize(torch.from_numpy(source).permute(2, 0, 1))
    with torch.inference_mode():
        expected = theirs(tensor[None])["out"][0].argmax(0).numpy()
    assert (result.labels == expected).mean() > 0.99
    assert predictor.class_names[:2] == ("background", "aeroplane")
