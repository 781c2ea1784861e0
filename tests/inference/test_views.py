"""Ensembles, scales, mirror images and tiles as one predictor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from jsonargparse import Namespace
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from torch import Tensor, nn

from detseg.cli._views import make_predictor
from detseg.errors import ConfigError, DataError
from detseg.inference import DetectionResult, MultiViewPredictor, Predictor, Tiling, TTAConfig
from detseg.inference.views import build_predictor
from detseg.models import FCN, Classifier, Detector, Segmenter
from detseg.modules.backbones import MobileNetV2, ResNet
from detseg.preprocessing import CenterCropConfig, ResizeConfig
from detseg.structures import Instances
from tests.colours import COLOURS, ColourDetector, ColourMaskDetector


def named(model: Any, names: Sequence[str] = tuple(COLOURS)) -> Any:
    model.class_names = tuple(names)
    return model.eval()


def picture(height: int = 64, width: int = 96) -> NDArray[np.uint8]:
    image = np.zeros((height, width, 3), np.uint8)
    image[8:24, 10:40] = COLOURS["red"]
    image[30:60, 50:70] = COLOURS["blue"]
    return image


def detector(cls: type[ColourDetector] = ColourDetector, **arguments: Any) -> Any:
    model = named(cls(**arguments))
    model.preprocessing = ResizeConfig(64, 96)
    return model


def test_scales_and_mirror_images_are_turned_back() -> None:
    tta = TTAConfig(scales=(1, 0.5, 2), flip=True)
    plain = Predictor(detector(ColourMaskDetector))(picture(), threshold=0)[0]
    fused = build_predictor([detector(ColourMaskDetector)], tta)(picture(), threshold=0)[0]
    assert isinstance(fused, DetectionResult)
    assert sorted(fused.labels) == sorted(plain.labels) == [0, 2]
    order, other = np.argsort(plain.labels), np.argsort(fused.labels)
    assert_allclose(fused.boxes[other], plain.boxes[order], atol=1e-4)  # edges on even pixels, which all scales keep
    assert_array_equal(fused.masks[other], plain.masks[order])  # type: ignore[index]
    assert_allclose(fused.scores[other], plain.scores[order], atol=0.02)  # a score of this model counts the padding


def test_an_ensemble_averages_its_members() -> None:
    """The second model errs at the right edge; in the mean each box counts by its score."""
    members = [detector(), detector(blunder=2.0)]
    results = [Predictor(member)(picture(), threshold=0)[0] for member in members]
    fused = MultiViewPredictor(members)(picture(), threshold=0)[0]
    for label in (0, 2):
        (one,), (two,), (mean,) = (np.flatnonzero(result.labels == label) for result in (*results, fused))
        scores = [results[0].scores[one], results[1].scores[two]]
        boxes = [results[0].boxes[one], results[1].boxes[two]]
        assert_allclose(fused.boxes[mean], np.average(boxes, axis=0, weights=scores), rtol=1e-6)
        assert fused.scores[mean] == pytest.approx(np.mean(scores))
    assert len(MultiViewPredictor(members)(picture(), threshold=0.99)[0]) == 0


def test_order_and_broken_images_are_those_of_the_stream(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    images: list[Any] = [picture(), tmp_path / "broken.png", picture(80, 60)]
    predictor = MultiViewPredictor([detector()], TTAConfig(flip=True), Tiling(64))
    results = list(predictor.stream(images, 2, 0, bad_images="result"))
    assert [getattr(result, "image_size", None) for result in results] == [(64, 96), None, (80, 60)]
    with pytest.raises(ConfigError, match="batch_size 0"):
        predictor(picture(), batch_size=0)


def test_tiles_of_a_file_and_of_an_array_are_equal(tmp_path: Path) -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    image[200:230, 250:290] = COLOURS["green"]  # over the seams at 256
    tifffile.imwrite(tmp_path / "large.tif", image, photometric="rgb", tile=(64, 64))
    predictor = MultiViewPredictor([detector(ColourMaskDetector)], tiling=Tiling(128, 0.4))
    of_file, of_array = predictor([tmp_path / "large.tif", image], threshold=0)
    assert of_file.path == tmp_path / "large.tif"
    for result in (of_file, of_array):
        assert_allclose(result.boxes, [[250, 200, 290, 230]])
        assert_array_equal(result.masks[0], image[..., 1] > 0)


def test_a_damaged_tile_of_a_file_is_an_error_of_its_image(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    file = tmp_path / "damaged.tif"
    tifffile.imwrite(file, image, photometric="rgb", tile=(64, 64), compression="zlib")
    with tifffile.TiffFile(file) as opened:
        place = opened.pages[0].dataoffsets[-1]  # type: ignore[union-attr]
    file.write_bytes(file.read_bytes()[:place] + bytes(100))
    predictor = MultiViewPredictor([detector()], tiling=Tiling(128))
    failed, result = predictor.stream([file, picture()], 2, 0, bad_images="result")
    assert failed.to_json()["file"] == str(file)
    assert "damaged.tif: cannot read this image" in failed.to_json()["error"]
    assert result.image_size == (64, 96)
    with pytest.raises(DataError, match=r"damaged\.tif"):
        predictor([file])
    options = Namespace(crop_size=None, scales=[1.0], flip=False, tile=0, overlap=0.2)
    with pytest.raises(ConfigError, match="tile 0: must be a whole number"):
        make_predictor(detector(), [], options)


def segmenter(seed: int, num_classes: int = 3) -> Segmenter:
    torch.manual_seed(seed)
    model = FCN(MobileNetV2(), num_classes, stride=32)
    for parameter in model.parameters():
        if parameter.dim() > 1 and not parameter.any():  # the scores begin at zero
            nn.init.normal_(parameter)
    return named(model)  # type: ignore[no-any-return]


def test_probabilities_of_segmenters_are_averaged() -> None:
    members = [segmenter(0), segmenter(1)]
    image = np.random.default_rng(0).integers(0, 256, (2, 3, 3), dtype=np.uint8).repeat(32, 0).repeat(32, 1)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    with torch.no_grad():
        probabilities = [
            (member(pixels).softmax(1) + member(pixels.flip(3)).softmax(1).flip(3)) / 2 for member in members
        ]
    expected = torch.stack(probabilities).mean(0)[0].argmax(0)
    result = MultiViewPredictor(members, TTAConfig(flip=True))(image)[0]
    assert len(np.unique(result.labels)) > 1
    assert (result.labels == expected.numpy()).mean() > 0.999  # but for ties in the last digit


def test_probabilities_of_classifiers_are_averaged() -> None:
    members = [named(Classifier(ResNet("resnet18"), 3)) for _ in range(2)]
    for member in members:
        member.preprocessing = CenterCropConfig(64)
    image = np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8)
    views = [Predictor(member)(view)[0] for member in members for view in (image, image[:, ::-1])]
    expected = np.mean([view.scores[np.argsort(view.labels)] for view in views], axis=0)
    result = MultiViewPredictor(members, TTAConfig(flip=True))(image)[0]
    assert_allclose(result.scores[np.argsort(result.labels)], expected, atol=1e-6)
    assert (np.diff(result.scores) <= 0).all()


class Constant(Detector):
    """A detector of another architecture, which finds nothing."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor, image_sizes: Tensor, proposals: Instances | None = None) -> Instances:
        none = torch.zeros(len(images), 0)
        return Instances(torch.zeros(len(images), 0, 4), none.bool(), none.long(), none)


def test_members_may_be_of_any_architecture_but_must_fit() -> None:
    red = Predictor(detector())(picture(), threshold=0)[0]
    pair = MultiViewPredictor([detector(), named(Constant())])(picture(), threshold=0)[0]
    assert_allclose(pair.scores, red.scores / 2)  # one of two models agrees
    with pytest.raises(ConfigError, match="ColourDetector and Constant, have other classes"):
        MultiViewPredictor([detector(), named(Constant(), ["red", "green", "cat"])])
    with pytest.raises(ConfigError, match="differ in their task"):
        MultiViewPredictor([detector(), segmenter(0)])
    with pytest.raises(ConfigError, match="only one of them predicts masks"):
        MultiViewPredictor([detector(), detector(ColourMaskDetector)])
    with pytest.raises(ConfigError, match="crop_size is for segmenters"):
        MultiViewPredictor([detector()], TTAConfig(crop_size=32))
    with pytest.raises(ConfigError, match="a classifier sees an image as a whole"):
        MultiViewPredictor([named(Classifier(ResNet("resnet18"), 3))], tiling=Tiling(64))
