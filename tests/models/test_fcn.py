"""FCN against the paper's steps written out, its stages, and what holds for every network for segmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.transforms.functional import normalize

from detseg.errors import CheckpointError
from detseg.models import FCN, DilatedFCN
from detseg.modules import FPN, backbones
from detseg.modules.backbones import VGG, AlexNet, Backbone, ConvNet, ResNet
from detseg.modules.upsampling import Upsampling
from detseg.weights import model_card
from tests.models.detectors import SmallBackbone
from tests.models.segmenters import CLASSES, SegmenterTester, rows, scene
from tests.models.test_backbones import FAMILIES, smallest
from tests.modules.backbones.tester import Narrow, images
from tests.modules.test_upsampling import caffe_filter


class TestFCN(SegmenterTester):
    @classmethod
    def make(cls, **arguments: Any) -> FCN:
        return FCN(SmallBackbone(), CLASSES, **{"stride": 4, **arguments})


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """fc6 and fc7 with 16 units for 4096."""
    monkeypatch.setattr(nn, "Linear", Narrow)


@torch.no_grad()
def test_fcn_8s_is_the_paper_written_out(narrow: None, tmp_path: Path) -> None:
    """VGG by torchvision; fc6 and fc7 as convolutions; pool3, pool4 and fc7 scored, added and upsampled."""
    torch.manual_seed(0)
    theirs = torchvision.models.vgg11().eval()
    torch.save(theirs.state_dict(), tmp_path / "vgg11.pth")
    backbone = VGG("vgg11", weights=str(tmp_path / "vgg11.pth"), stages=[3, 4, 5], pooled=True)
    model = FCN(backbone, CLASSES, stride=8, skip_scale=0.5).eval()
    assert not any(value.any() for name, value in model.named_parameters() if name.startswith("scores."))
    scores: dict[int, Any] = {}
    for stride, channels in ((8, 256), (16, 512), (32, 16)):
        scores[stride] = torch.randn(CLASSES, channels, 1, 1), torch.randn(CLASSES)
        layer: Any = model.scores[str(stride)]
        layer.weight.copy_(scores[stride][0])
        layer.bias.copy_(scores[stride][1])

    batch = images(2, 3, 64, 96)
    pools = {"features.10": "8", "features.15": "16", "features.20": "32"}
    features = create_feature_extractor(theirs, pools)(
        normalize(batch / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    fc6, fc7 = theirs.classifier[0], theirs.classifier[3]
    x = F.relu(F.conv2d(features["32"], fc6.weight.view(16, 512, 7, 7), fc6.bias, padding=3))
    x = F.relu(F.conv2d(x, fc7.weight[..., None, None], fc7.bias))
    kernel = torch.zeros(CLASSES, CLASSES, 4, 4)
    kernel[range(CLASSES), range(CLASSES)] = torch.from_numpy(caffe_filter(4)).float()

    def twice(maps: Tensor) -> Tensor:
        return F.conv_transpose2d(maps, kernel, stride=2, padding=1)

    x = F.conv2d(x, *scores[32])
    x = twice(x) + F.conv2d(0.5 * features["16"], *scores[16])
    x = twice(x) + F.conv2d(0.25 * features["8"], *scores[8])
    expected = F.interpolate(x, scale_factor=8, mode="bilinear")
    assert_close(model(batch), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def saved(model: FCN, path: Path) -> str:
    """A checkpoint as a training writes it."""
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "detseg": {}}, path)
    return str(path)


def stage(stride: int, weights: str | None = None, classes: int = CLASSES) -> FCN:
    return FCN(ResNet("resnet18", stages=[2, 3, 4]), classes, stride, weights=weights).eval()


@torch.no_grad()
def test_a_finer_net_begins_with_what_the_coarser_one_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    coarse = stage(16)
    for value in coarse.scores.parameters():
        value.normal_()
    path = saved(coarse, tmp_path / "coarse.ckpt")
    with caplog.at_level("INFO"):
        finer = stage(8, path)
    assert "coarse.ckpt: weights loaded; new are scores.8.weight, scores.8.bias, upsamplings.8.weight" in caplog.text
    batch = scene()
    scores = coarse.scores["16"](coarse.backbone(batch.images)[-1])
    for finer_one, factor in ((finer, 8), (stage(4, saved(finer, tmp_path / "finer.ckpt")), 4)):
        scores = Upsampling(CLASSES, 2)(scores)
        expected = F.interpolate(scores, scale_factor=factor, mode="bilinear")
        assert_close(finer_one(batch.images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda path: stage(16, saved(stage(8), path)),
            r"not a coarser FCN .*: 3 unexpected \(such as scores.8",
        ),
        (lambda path: stage(8, saved(stage(16, classes=5), path)), r"2 of another shape \(such as scores.16.weight"),
        (
            lambda path: FCN(AlexNet(), 3, 32, weights=saved(stage(16), path)),
            r"\d+ missing \(such as backbone.features.0.weight",
        ),
        (lambda path: stage(8, str(path.with_name("absent.ckpt"))), "absent.ckpt: no such file; train the coarser"),
        (
            lambda path: path.write_bytes(b"?") and stage(8, str(path)),
            "net.ckpt: damaged, truncated",
        ),
        (
            lambda path: torch.save({"x": 1}, path) or stage(8, str(path)),
            "net.ckpt: not a state dict: x",
        ),
    ],
)
def test_weights_that_do_not_fit(make: Any, said: str, tmp_path: Path, narrow: None) -> None:
    with pytest.raises(CheckpointError, match=said):
        make(tmp_path / "net.ckpt")


def test_weights_would_run_no_code(tmp_path: Path) -> None:
    torch.save({"state_dict": {"model.x": Path("x")}}, tmp_path / "net.ckpt")
    with pytest.raises(CheckpointError, match=r"net.ckpt: holds pathlib.*only tensors and plain values are read"):
        stage(8, str(tmp_path / "net.ckpt"))


def test_a_finer_net_has_its_own_weights_of_the_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    coarse = stage(16)
    with caplog.at_level("INFO"):
        stage(8, saved(coarse, tmp_path / "plain.ckpt"))
    assert "weights of the classes" not in caplog.text
    coarse.class_weights.copy_(torch.tensor([0.5, 1.0, 9.0]))
    with caplog.at_level("INFO"):
        finer = stage(8, saved(coarse, tmp_path / "weighted.ckpt"))
    assert finer.class_weights.tolist() == [1, 1, 1]
    assert "weighted.ckpt: its class weights are not loaded" in caplog.text


def test_a_published_folder_is_gone_on_from(tmp_path: Path) -> None:
    coarse = stage(16)
    model_card.write(tmp_path / "coarse", {f"model.{name}": one for name, one in coarse.state_dict().items()}, {})
    finer = stage(8, str(tmp_path / "coarse"))
    assert torch.equal(finer.backbone.conv1.weight, coarse.backbone.conv1.weight)


@torch.no_grad()
def test_logits_are_upsampled_in_single_precision() -> None:
    """Under bfloat16, whose rounding would make neighbouring pixels alike and classes equal."""
    torch.manual_seed(0)
    for model in (stage(16), DilatedFCN(ResNet("resnet18", stages=[2, 3]), CLASSES).eval()):
        for name, value in model.named_parameters():
            if name.startswith("scores."):
                value.normal_()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(scene().images)
        assert logits.dtype == torch.float32
        ramp = logits[0, 0, 48, 8:24]
        assert len(ramp.unique()) == 16  # of which bfloat16 would keep a few


def test_strides_that_there_are() -> None:
    with pytest.raises(ValueError, match="stride 32: the backbone has maps of strides 4, 8, 16"):
        stage(32)
    with pytest.raises(ValueError, match="each must be coarser"), torch.device("meta"):
        FCN(ResNet("resnet50", output_stride=8), CLASSES)


@pytest.mark.usefixtures("quick_initialization")
@pytest.mark.parametrize("kind", FAMILIES)
def test_skips_work_over_every_family(kind: type[Backbone], monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps of Adam change every parameter, in FCN over all the strides that there are."""
    torch.manual_seed(0)
    if kind in (VGG, AlexNet):
        monkeypatch.setattr(nn, "Linear", Narrow)
    batch = rows(scene(), [1])
    backbone = kind(**smallest(kind))
    model = FCN(backbone, CLASSES, stride=backbone.strides[0]).train()
    assert model.strides == backbone.strides
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    for _ in range(3):  # scores at zero let no gradient through, and then timm's scales at zero
        optimizer.zero_grad()
        loss = model.loss(batch)["loss_pixels"]
        assert loss.isfinite()
        loss.backward()
        optimizer.step()
    assert [name for name, value in model.named_parameters() if torch.equal(value, before[name])] == []


@torch.no_grad()
def test_a_pyramid_is_a_backbone_too() -> None:
    model = FCN(FPN(ResNet("resnet18", stages=[2, 3, 4]), 16), CLASSES, stride=4).eval()
    assert model.strides == [4, 8, 16]  # without the map that is for anchors alone
    assert model(scene().images).shape == (2, CLASSES, 96, 96)


def test_no_weights_are_said_to_be_missing_that_nobody_wants(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = torchvision.models.mobilenet_v2().state_dict()
    torch.save({name: value for name, value in state.items() if "classifier" not in name}, tmp_path / "w.pth")
    with caplog.at_level("INFO"):
        FCN(backbones.MobileNetV2(weights=str(tmp_path / "w.pth")), CLASSES)
    assert caplog.text == ""


def test_pooled_maps_are_those_of_the_poolings() -> None:
    with torch.device("meta"):
        theirs = torchvision.models.vgg16_bn()
        own: ConvNet = VGG("vgg16_bn", stages=[1, 2, 3, 4, 5], pooled=True)
    assert [type(theirs.get_submodule(own.return_layers[one])) for one in own.stages] == [nn.MaxPool2d] * 5
    assert own.strides == [2, 4, 8, 16, 32]
    assert own.channels == [64, 128, 256, 512, 512]
