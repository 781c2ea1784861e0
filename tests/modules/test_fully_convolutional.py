"""Classifiers as convolutions: the same logits on an image of their size, and those of every window of a larger one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.testing import assert_close
from torchvision.transforms.functional import normalize

from detseg.models import Classifier, ConvolutionalClassifier
from detseg.modules import backbones
from detseg.modules.backbones import VGG, AlexNet, GoogLeNet, ResNet, SqueezeNet
from detseg.modules.fully_convolutional import hidden_layers, to_fully_convolutional
from tests.modules.backbones.tester import Narrow, images, shake

pytestmark = pytest.mark.usefixtures("quick_initialization")

NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("AlexNet", {}),
    ("VGG", {"name": "vgg11"}),
    ("GoogLeNet", {}),
    ("ResNet", {"name": "resnet18"}),
    ("MobileNetV3", {"name": "mobilenet_v3_small"}),
    ("SqueezeNet", {"name": "squeezenet1_1"}),
    ("DenseNet", {}),
]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """fc6 and fc7 with 16 units for 4096."""
    monkeypatch.setattr(nn, "Linear", Narrow)


@pytest.mark.parametrize(("kind", "given"), NETWORKS)
@torch.no_grad()
def test_on_an_image_of_its_size_it_is_the_classifier(kind: str, given: dict[str, Any], narrow: None) -> None:
    torch.manual_seed(0)
    classifier = shake(Classifier(getattr(backbones, kind)(**given), 7)).eval()
    image = images(1, 3, 224, 224)
    expected = classifier(image)
    whole = ConvolutionalClassifier(classifier)
    assert_close(whole(image), expected[..., None, None], rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    # 9 x 11 cells of 32 pixels, seen by windows of 7 x 7; of SqueezeNet, 17 x 21 of 16 pixels by 13 x 13
    assert whole(images(1, 3, 288, 352)).shape[2:] == ((5, 9) if kind == "SqueezeNet" else (3, 5))


@torch.no_grad()
def test_the_weights_are_those_of_torchvision(tmp_path: Any) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.alexnet(num_classes=1000).eval()
    torch.save(theirs.state_dict(), tmp_path / "alexnet.pth")
    classifier = Classifier(AlexNet(weights=str(tmp_path / "alexnet.pth")), 1000).eval()
    image = images(1, 3, 224, 224)
    expected = theirs(normalize(image / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    assert_close(ConvolutionalClassifier(classifier)(image)[..., 0, 0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backbone", [VGG, ResNet, SqueezeNet])
@torch.no_grad()
def test_every_window_has_the_logits_of_the_classifier(backbone: Any, narrow: None) -> None:
    """Of the features, since a window of the image would be padded where the image goes on."""
    torch.manual_seed(0)
    name = {VGG: "vgg11", ResNet: "resnet18", SqueezeNet: "squeezenet1_1"}[backbone]
    classifier = Classifier(backbone(name), 5).eval()
    image = images(1, 3, 256, 288)
    features = classifier.backbone.classifier_features(image)
    found = ConvolutionalClassifier(classifier)(image)
    window = {VGG: 7, ResNet: 7, SqueezeNet: 13}[backbone]
    rows, columns = found.shape[2:]
    assert (rows, columns) == (features.shape[2] - window + 1, features.shape[3] - window + 1)
    for row in range(rows):
        for column in range(columns):
            part = features[..., row : row + window, column : column + window]
            assert_close(found[..., row, column], classifier.head(part), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("backbone", "layers"),
    [
        (lambda: VGG("vgg11"), [(512, 4096, 7), (4096, 4096, 1)]),
        (lambda: AlexNet(), [(256, 4096, 6), (4096, 4096, 1)]),
        (lambda: GoogLeNet(), []),
        (lambda: ResNet("resnet18"), []),
        (lambda: ResNet("resnet18", stages=[3, 4]), []),
        (lambda: VGG("vgg11", stages=[3, 4]), []),
        (lambda: SqueezeNet("squeezenet1_1"), []),
        (lambda: backbones.MobileNetV3("mobilenet_v3_small"), [(576, 1024, 1)]),
    ],
)
def test_hidden_layers_keep_the_size_of_the_map(backbone: Any, layers: list[tuple[int, int, int]]) -> None:
    with torch.device("meta"):
        model = backbone()
        hidden = hidden_layers(model)
        convolutions = [layer for layer in hidden if isinstance(layer, nn.Conv2d)]
        assert [(one.in_channels, one.out_channels, one.kernel_size[0]) for one in convolutions] == layers
        assert hidden(torch.zeros(1, model.channels[-1], 5, 4)).shape[2:] == (5, 4)


@torch.no_grad()
def test_statistics_of_batch_norm_stay_as_they_are() -> None:
    classifier = Classifier(ResNet("resnet18"), 3).train()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    model = ConvolutionalClassifier(classifier, 64)
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert all(module.training for module in (model, model.backbone, model.backbone.bn1))


@pytest.mark.parametrize(
    ("backbone", "middle"),
    # In pixels from the start of the window of 224. By hand, for AlexNet: 4j + 3.5 is the middle of what conv1 sees;
    # poolings of three by two make it 8j + 7.5, 16j + 15.5 and 32j + 31.5; fc6 takes the cells 0 to 5.
    [(lambda: AlexNet(), 111.5), (lambda: VGG("vgg11"), 112.0), (lambda: ResNet("resnet18"), 96.5)],
)
def test_where_a_cell_looks(backbone: Any, middle: float, narrow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The centre of the gradient of one cell, in a network that is made linear, and all whose weights are equal."""
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, x: x)
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: x)
    pool = torch.nn.functional.avg_pool2d
    monkeypatch.setattr(nn.MaxPool2d, "forward", lambda self, x: pool(x, self.kernel_size, self.stride, self.padding))
    model = ConvolutionalClassifier(Classifier(backbone(), 2).eval())
    for name, value in model.named_parameters():
        torch.nn.init.constant_(value, 0.0 if name.endswith("bias") else 1 / value[0].numel())
    seen = torch.zeros(1, 3, 608, 640, requires_grad=True)
    monkeypatch.setattr(model.backbone, "normalize", lambda images, sizes: seen)
    cells = model(torch.zeros(1, 3, 608, 640, dtype=torch.uint8))
    row, column = 5, 6
    (gradient,) = torch.autograd.grad(cells[0, 0, row, column], seen)
    weight = gradient[0].sum(dim=0).double()
    for dim, cell in ((1, row), (0, column)):
        line = weight.sum(dim=dim)
        centre = float((line * (torch.arange(len(line)) + 0.5)).sum() / line.sum())
        assert centre - 32 * cell == pytest.approx(middle, abs=0.05)


def test_a_map_of_another_size_than_the_classifier_wants() -> None:
    with pytest.raises(ValueError, match="7 x 7 cells, not of 9 x 9"):
        to_fully_convolutional(nn.Sequential(nn.AdaptiveAvgPool2d((7, 7)), nn.Flatten()), 8, 9)
