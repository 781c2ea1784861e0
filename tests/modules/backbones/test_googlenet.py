from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from detseg.models import Classifier
from detseg.modules.backbones import GoogLeNet
from tests.modules.backbones.tester import (
    PretrainedTester,
    assert_centred,
    assert_channels_are_true,
    assert_is_published,
    images,
    labelled,
    millions,
    multiply_adds,
    on_meta,
)


class TestGoogLeNet(PretrainedTester):
    kind = GoogLeNet
    name = "googlenet"
    options = {"init_weights": False, "transform_input": True}  # from the mean and deviation of the other networks
    nodes = ("conv3", "inception3b", "inception4e", "inception5b")
    frozen = ("conv1.", "conv2.", "conv3.")


def test_is_published() -> None:
    assert_is_published(on_meta(GoogLeNet), "googlenet", init_weights=False)


def test_cells_are_centred() -> None:
    assert_centred(GoogLeNet(stages=[1, 2, 3, 4]))


def test_channels_are_true() -> None:
    with torch.device("meta"):
        assert_channels_are_true(GoogLeNet(stages=[1, 2, 3, 4, 5]))
        assert GoogLeNet(stages=[1, 2, 3, 4, 5]).channels == [64, 192, 480, 832, 1024]


# Table 1: the side of the map, the channels, the weights (in 1024) and the multiply-adds (in millions).
TABLE_1 = {
    "conv2": (56, 192, 112, 360),  # with conv3: one row of depth 2
    "inception3a": (28, 256, 159, 128),
    "inception3b": (28, 480, 380, 304),
    "inception4a": (14, 512, 364, 73),
    "inception4b": (14, 512, 437, 88),
    "inception4c": (14, 512, 463, 100),
    "inception4d": (14, 528, 580, 119),
    "inception4e": (14, 832, 840, 170),
    "inception5a": (7, 832, 1072, 54),
    "inception5b": (7, 1024, 1388, 71),
}
# The table's own figures are not what its widths give: 497 of weights in 4c, 1018 and 51 in 5a.
MISPRINTS = {("inception4c", "weights"), ("inception5a", "weights"), ("inception5a", "operations")}


@pytest.mark.parametrize("row", TABLE_1)
def test_table_1(row) -> None:
    """Where torchvision's network is another, the figures are made those of the paper.

    Its 5 x 5 convolutions are of 3 x 3, so 16 weights are missing for each pair of channels. Scales and offsets of
    batch norm, in the place of the paper's biases, are not counted, as the table does not count biases.
    """
    side, channels, weights, operations = TABLE_1[row]
    backbone = on_meta(GoogLeNet).backbone
    last = "conv3" if row == "conv2" else row
    (found,) = backbone.forward_intermediates(
        torch.zeros(1, 3, 224, 224, dtype=torch.uint8, device="meta"), [last], stride_aligned=False
    )
    assert tuple(found.shape[1:]) == (channels, side, side)
    blocks = [backbone.get_submodule(name) for name in {row, last}]
    convolutions = [layer for block in blocks for layer in block.modules() if isinstance(layer, nn.Conv2d)]
    assert all(layer.bias is None for layer in convolutions)
    count = sum(layer.weight.numel() for layer in convolutions)
    if row.startswith("inception"):
        instead_of_5x5 = backbone.get_submodule(f"{row}.branch3.1.conv")
        assert instead_of_5x5.kernel_size == (3, 3)
        count += 16 * instead_of_5x5.in_channels * instead_of_5x5.out_channels
    assert (count / 1024 == pytest.approx(weights, rel=0.02)) != ((row, "weights") in MISPRINTS)
    assert (count * side**2 / 1e6 == pytest.approx(operations, rel=0.01)) != ((row, "operations") in MISPRINTS)


def test_first_and_last_row_of_table_1() -> None:
    """conv1 has 9408 weights. The table says 2.7 K and 34 M operations, which no 7 x 7 of 64 channels has."""
    classifier = on_meta(GoogLeNet)
    assert classifier.backbone.conv1.conv.weight.numel() == 7 * 7 * 3 * 64
    assert classifier.head.fc.weight.numel() == 1000 * 1024
    assert multiply_adds(classifier) == pytest.approx(1.5, abs=0.01)  # the budget of the paper's section 1


def test_evaluation_does_not_run_the_classifiers_at_the_side() -> None:
    classifier = Classifier(GoogLeNet(), num_classes=3).eval()
    called: list[str] = []
    for name, helper in classifier.auxiliary.items():
        helper.register_forward_hook(lambda *_, name=name: called.append(name))
    with torch.no_grad():
        classifier(images(1, 3, 64, 64))
        assert called == []
        losses = classifier.loss(labelled(images(2, 3, 64, 64), [0, 1]))
    assert called == ["aux1", "aux2"]
    assert list(losses) == ["loss_classifier", "loss_aux1", "loss_aux2"]


def test_classifiers_at_the_side_see_what_torchvision_gives_them() -> None:
    """In training without dropout, all three logits are those of torchvision's network with the same values."""
    torch.manual_seed(0)
    classifier = Classifier(GoogLeNet(), num_classes=5)
    theirs = torchvision.models.GoogLeNet(num_classes=5, init_weights=False, dropout=0, dropout_aux=0)
    state = classifier.state_dict()
    theirs.load_state_dict({name.split(".", 1)[1]: value for name, value in state.items()})
    for layer in classifier.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0
    batch, labels = images(2, 3, 64, 64), torch.tensor([4, 1])
    losses = classifier.loss(labelled(batch, labels.tolist()))
    expected = theirs((batch / 255 - 0.5) / 0.5)
    loss = nn.functional.cross_entropy(expected.logits, labels)
    torch.testing.assert_close(losses["loss_classifier"], loss, rtol=1e-4, atol=1e-5)
    for name, other in (("loss_aux1", expected.aux_logits1), ("loss_aux2", expected.aux_logits2)):
        loss = 0.3 * nn.functional.cross_entropy(other, labels)  # section 5
        torch.testing.assert_close(losses[name], loss, rtol=1e-4, atol=1e-5)


def test_parameters() -> None:
    """Twelve times fewer than AlexNet's 60 M (section 1), to which 3 x 3 for 5 x 5 and the batch norm add little."""
    classifier = on_meta(GoogLeNet)
    assert millions(classifier.backbone) + millions(classifier.head) == pytest.approx(6.6, abs=0.05)
