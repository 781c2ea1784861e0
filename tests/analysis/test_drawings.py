"""Convolution arithmetic, receptive fields, anchors, RoI pooling, gradients and cues, against loops and torch."""

from __future__ import annotations

import copy
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from detseg.analysis.anchors import count_matches, draw_anchors, draw_proposals, match_anchors, recall
from detseg.analysis.convolution import Convolution, draw_convolution, touched
from detseg.analysis.efficiency import Cost, draw_efficiency, measure
from detseg.analysis.gradients import VARIANTS, DeepStack, draw_gradients, smooth, train_network
from detseg.analysis.heatmap import class_evidence
from detseg.analysis.receptive_fields import backbone_fields, draw_fields, gradient_field, stack_fields
from detseg.analysis.roi_pooling import draw_misalignment, misalignment, pool_bins, quantized
from detseg.analysis.texture_bias import (
    cue_share,
    draw_bias,
    fill_silhouette,
    foreground,
    gram,
    style_layers,
    transfer_style,
)
from detseg.models import Classifier
from detseg.modules import AnchorGenerator
from detseg.modules.backbones import VGG, BagNet, GoogLeNet, ResNet, SqueezeNet
from detseg.modules.target_assignment import Matcher

BOX = np.array([37.0, 21, 133, 90])


@pytest.mark.parametrize("values", list(product([5, 6], [1, 3], [1, 2], [0, 1], [1, 2])))
def test_convolution_arithmetic_is_that_of_torch(values: tuple[int, ...]) -> None:
    size, kernel, stride, padding, dilation = values
    ones, image = torch.ones(1, 1, kernel, kernel), torch.ones(1, 1, size, size)
    convolution = Convolution(*values)
    output = F.conv2d(image, ones, stride=stride, padding=padding, dilation=dilation)
    assert convolution.output_size == output.shape[2]
    transposed = Convolution(*values, transposed=True)
    if transposed.output_size > 0:
        output = F.conv_transpose2d(image, ones, stride=stride, padding=padding, dilation=dilation)
        assert transposed.output_size == output.shape[2]
    column = min(1, convolution.output_size - 1)
    cells = [(k * dilation, column * stride + m * dilation) for k in range(kernel) for m in range(kernel)]
    read = touched(convolution, (0, column))
    assert sorted(zip(*(axis.tolist() for axis in np.nonzero(read)), strict=True)) == sorted(cells)
    written = touched(transposed, (0, column))
    assert sorted(zip(*(axis.tolist() for axis in np.nonzero(written)), strict=True)) == sorted(cells)


def test_a_convolution_is_drawn_with_a_panel_for_each_cell_of_a_row() -> None:
    picture = draw_convolution(Convolution(5, 3, 2, 1))
    assert picture.shape == (530, 3 * 230 + 40, 3)
    assert (picture == (0xD5, 0x5E, 0x00)).all(axis=2).sum() > 9 * 300  # read cells
    assert draw_convolution(Convolution(3, 3, 2, 1, transposed=True)).shape == picture.shape


@pytest.mark.usefixtures("quick_initialization")
def test_fields_of_backbones_are_those_of_the_rule() -> None:
    """ResNet-18: 7 x 7 of stride 2, pooling, then 3 x 3 convolutions."""
    torch.manual_seed(0)
    backbone = ResNet("resnet18").eval().requires_grad_(False)
    images = list(torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8).split(1))
    fields = backbone_fields(backbone, ["relu", "layer1.0"], images)
    assert [field.sides[0] for field in fields] == [7, 11 + 2 * 8]
    for field in fields:
        x1, y1, x2, y2 = field.theoretical
        outside = field.gradient.copy()
        outside[y1:y2, x1:x2] = 0
        assert outside.max() == 0
        assert field.sides[1] <= field.sides[0]
    assert draw_fields("fields", fields).shape == (350, 640, 3)


def test_effective_fields_are_gradients() -> None:
    """Of one convolution with a known kernel, and of two: the kernel convolved with itself."""
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])
    layer = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    layer.weight.data[0, 0] = kernel
    one = gradient_field(layer, [torch.zeros(1, 1, 9, 9)])
    np.testing.assert_allclose(one[3:6, 3:6], kernel / 4)
    two = gradient_field(nn.Sequential(layer, layer), [torch.zeros(1, 1, 9, 9)])
    expected = F.conv2d(kernel[None, None], kernel[None, None], padding=2)[0, 0]
    np.testing.assert_allclose(two[2:7, 2:7], expected / expected.max(), atol=1e-6)
    assert two.sum() == pytest.approx(two[2:7, 2:7].sum())


def test_three_small_convolutions_see_as_much_as_one_of_seven() -> None:
    fields = stack_fields([3, 3, 3], count=2, seed=0)
    assert [field.name for field in fields][1:] == [
        "3 + 3: 18 C²; one 5 x 5: 25 C²",
        "3 + 3 + 3: 27 C²; one 7 x 7: 49 C²",
    ]
    for field, side in zip(fields, (3, 5, 7), strict=True):
        y, x = np.nonzero(field.gradient)
        assert field.theoretical == (x.min(), y.min(), x.max() + 1, y.max() + 1)
        assert field.sides[0] == side


@pytest.mark.usefixtures("quick_initialization")
def test_evidence_of_patches_adds_up_to_the_logits() -> None:
    """Each cell of a BagNet is the logits of its patch alone; their mean is the classifier's."""
    torch.manual_seed(0)
    classifier = Classifier(BagNet("bagnet9"), 5).eval()
    image = np.random.default_rng(0).integers(0, 256, (64, 80, 3)).astype(np.uint8)
    evidence = class_evidence(classifier, image, torch.device("cpu"))
    with torch.no_grad():
        logits = classifier(torch.from_numpy(image).permute(2, 0, 1)[None])[0]
    np.testing.assert_allclose(evidence.mean(axis=(1, 2)), logits, atol=1e-4)
    patch = image[16:25, 24:33]  # the receptive field of cell (2, 3): 9 pixels from 8 pixels times its index
    with torch.no_grad():
        alone = classifier(torch.from_numpy(patch.copy()).permute(2, 0, 1)[None])[0]
    np.testing.assert_allclose(evidence[:, 2, 3], alone, atol=1e-4)
    with pytest.raises(ValueError, match="SqueezeNet"):
        class_evidence(Classifier(SqueezeNet(), 5), image, torch.device("cpu"))


def test_matched_anchors_are_those_of_a_loop() -> None:
    boxes = np.array([[8.0, 8, 70, 60], [60, 30, 120, 94]])
    levels = match_anchors(AnchorGenerator(), Matcher(0.7, 0.3, True), [8, 16], (96, 128), boxes)
    anchors = torch.from_numpy(np.concatenate([level.anchors for level in levels]))
    overlap = torchvision.ops.box_iou(anchors, torch.from_numpy(boxes).float()).numpy()
    expected = []
    for row in overlap:
        best = (row >= overlap.max(axis=0)).any()  # of some object
        expected.append(1 if row.max() >= 0.7 or best else 0 if row.max() < 0.3 else -1)
    labels = np.concatenate([level.match_labels for level in levels])
    assert labels.tolist() == expected
    counts = count_matches(levels)
    assert [(stride, total) for stride, total, *_ in counts] == [(8, 3 * 12 * 16), (16, 3 * 6 * 8)]
    assert sum(positive for _, _, positive, _, _ in counts) == expected.count(1) > 1
    image = np.zeros((96, 128, 3), np.uint8)
    assert draw_anchors(image, boxes, levels).shape == (510, 1120, 3)


def test_recall_of_proposals() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [20, 20, 40, 40]])
    candidates = np.array([[0, 0, 10, 6], [20, 20, 40, 29]], dtype=np.float32)  # IoU 0.6 and 0.45
    assert recall(boxes, candidates) == 1
    assert recall(boxes, candidates[:0]) == 0
    image = np.zeros((50, 50, 3), np.uint8)
    scores = np.array([0.9, 0.2], dtype=np.float32)
    assert draw_proposals(image, boxes, {"a": (candidates, scores), "b": (candidates, scores)}).shape == (620, 1120, 3)


def test_roi_pool_reads_the_cells_that_are_drawn() -> None:
    """Which cells a bin reads, told by torchvision from a map with one cell at a time."""
    stride, bins = 16, 3
    roi = torch.tensor([[0.0, *BOX.tolist()]])
    read = np.zeros((bins * bins, 12, 12), bool)
    for y, x in product(range(12), range(12)):
        feature = torch.zeros(1, 1, 12, 12)
        feature[0, 0, y, x] = 1
        read[:, y, x] = torchvision.ops.roi_pool(feature, roi, bins, 1 / stride).flatten() > 0
    for bin_cells, (x1, y1, x2, y2) in zip(read, pool_bins(BOX, stride, bins) / stride + 0.5, strict=True):
        y, x = np.nonzero(bin_cells)
        assert (x.min(), y.min(), x.max() + 1, y.max() + 1) == (x1, y1, x2, y2)
    y, x = np.nonzero(read.any(axis=0))
    assert (quantized(BOX, stride) / stride + 0.5).tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_roi_align_is_aligned_and_roi_pool_is_not() -> None:
    """Samples of a linear map have no error, whatever the box; RoIPool has one, but not on whole cells."""
    for shift in np.linspace(0, 15, 4):
        measured = misalignment(BOX + shift, 16, 7)
        assert measured.align.max() < 1e-3
        # On each axis half a cell by the corner, by the last cell that is included, and by the edge of a bin.
        assert 1 < measured.pool.max() <= 1.5 * 16 * 2**0.5
    assert misalignment(np.array([32.0, 16, 112, 64]), 16, 1).pool.max() == 0
    assert misalignment(np.array([39.0, 16, 112, 64]), 16, 1).pool.max() == 3.5  # 7 pixels of one corner of two
    picture = draw_misalignment(np.zeros((120, 160, 3), np.uint8), BOX, 16, 3)
    assert picture.shape == (560, 1120, 3)


def test_gradients_vanish_in_a_plain_stack_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 16, 16), generator=generator, dtype=torch.uint8)
    labels = torch.arange(4) % 3
    trained = {}
    for variant in VARIANTS:
        torch.manual_seed(0)
        model = DeepStack(variant, depth=24, width=8, num_classes=3)
        trained[variant] = train_network(model, [(images, labels)] * 2)
    ratio = {name: run.norms[0, 0] / run.norms[0, -1] for name, run in trained.items()}
    assert ratio["plain"] < 1e-6
    assert all(ratio[name] > 1e-2 for name in ("batch norm", "highway", "residual"))
    helped = trained["auxiliary heads"].norms[0]
    assert helped[0] > 100 * trained["plain"].norms[0, 0]
    assert draw_gradients("gradients", trained).shape == (430, 1200, 3)


def test_the_norms_are_those_of_autograd() -> None:
    torch.manual_seed(0)
    model = DeepStack("residual", depth=2, width=4, num_classes=3)
    images, labels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8), torch.tensor([0, 1, 2, 0])
    loss = model.loss(images.float() / 127.5 - 1, labels)
    expected = [grad.norm().item() for grad in torch.autograd.grad(loss, [layer.weight for layer in model.layers])]
    run = train_network(model, [(images, labels)])
    assert run.norms[0].tolist() == pytest.approx(expected)
    assert run.losses == [pytest.approx(loss.item())]
    assert smooth([1.0, 2, 6], 2).tolist() == [1, 1.5, 4]


def test_the_norms_of_a_classifier_are_those_of_its_blocks() -> None:
    """With the auxiliary losses of GoogLeNet, at 0.3 (section 5), and without."""
    torch.manual_seed(0)
    model = Classifier(GoogLeNet(), num_classes=3).train()
    model.head.dropout.p = model.auxiliary["aux1"].dropout.p = model.auxiliary["aux2"].dropout.p = 0
    images, labels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8), torch.tensor([0, 1, 2, 0])
    losses = model.cross_entropies(images, labels)
    blocks = [name for name in model.backbone.block_names if not name.startswith("maxpool")]
    weights = [[*model.backbone.get_submodule(name).parameters()] for name in blocks]
    expected = {}
    for name, loss in {"all": sum(losses.values()), "last": losses["loss_classifier"]}.items():
        gradients = [torch.autograd.grad(loss, block, retain_graph=True) for block in weights]
        expected[name] = [torch.cat([one.flatten() for one in block]).norm().item() for block in gradients]
    whole, alone = copy.deepcopy(model), model
    alone.auxiliary.clear()
    assert train_network(whole, [(images, labels)]).norms[0].tolist() == pytest.approx(expected["all"], rel=1e-3)
    assert train_network(alone, [(images, labels)]).norms[0].tolist() == pytest.approx(expected["last"], rel=1e-3)


def circle(color: tuple[int, int, int], radius: int = 20) -> np.ndarray:
    y, x = np.mgrid[:64, :64]
    image = np.full((64, 64, 3), 200, np.uint8)
    image[(y - 32) ** 2 + (x - 32) ** 2 < radius**2] = color
    return image


def test_a_silhouette_is_filled_with_the_texture_of_another() -> None:
    shape, texture = circle((20, 30, 200)), circle((10, 160, 40), 28)
    mask = (shape != 200).any(axis=2)
    assert (foreground(shape) == mask).all()
    y, x = np.mgrid[:64, :64] - 32
    texture[(y**2 + x**2 < 28**2) & (y**2 + x**2 > 24**2)] = (10, 160, 40)
    texture[y**2 + x**2 < 9**2] = 200  # a ring: patches must leave out its hole
    conflict = fill_silhouette(shape, texture, np.random.default_rng(0))
    assert (conflict[mask] == (10, 160, 40)).all()
    assert (conflict[~mask] == 128).all()
    with pytest.raises(ValueError, match="no object"):
        fill_silhouette(shape, np.full_like(shape, 7), np.random.default_rng(0))


@pytest.mark.usefixtures("quick_initialization")
def test_style_is_transferred_and_content_stays() -> None:
    """The Gram matrices come nearer to those of the style than the content's were, against a product by numpy."""
    torch.manual_seed(0)
    backbone = VGG("vgg11", stages=[2, 3, 4]).eval().requires_grad_(False)
    layers = style_layers(backbone)
    assert (layers.content, layers.style) == ("features.14", [f"features.{index}" for index in (1, 4, 7, 12, 17)])
    generator = np.random.default_rng(0)
    content = circle((20, 30, 200))[8:56, 8:56]
    style = generator.integers(0, 256, (48, 48, 3)).astype(np.uint8)
    painted = transfer_style(backbone, content, style, steps=6)

    def first(image: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
            (feature,) = backbone.forward_intermediates(pixels, ["features.1"])
        flat = feature[0].flatten(1).numpy()
        np.testing.assert_allclose(gram(feature), flat @ flat.T / flat.size, rtol=1e-3, atol=1e-6)
        return flat @ flat.T / flat.size

    goal = first(style)
    assert np.linalg.norm(first(painted) - goal) < 0.5 * np.linalg.norm(first(content) - goal)
    assert painted.shape == content.shape


def test_shares_count_decisions_for_either_cue() -> None:
    shapes, textures = np.array([0, 0, 1, 1, 2, 2]), np.array([1, 2, 0, 2, 0, 1])
    share = cue_share([0, 2, 1, 1, 0, -1], shapes, textures, 3)
    assert (share.shape.tolist(), share.texture.tolist(), share.images) == ([1, 2, 0], [1, 0, 1], 6)
    assert share.shape_bias == 3 / 5
    assert share.per_class.tolist() == [0.5, 1, 0]
    assert np.isnan(cue_share([-1], shapes[:1], textures[:1], 3).shape_bias)
    assert draw_bias("bias", ["a", "b", "c"], {"net": share}).shape == (242, 820, 3)


def test_multiply_adds_are_counted() -> None:
    """Of a convolution without padding: 9 products of 2 channels for 3 channels in each of 6 x 4 cells."""
    layer, image = nn.Conv2d(2, 3, 3), torch.zeros(1, 2, 8, 6)
    calls = []
    multiply_adds, seconds = measure(lambda: calls.append(layer(image)), repeats=3)
    assert multiply_adds == 9 * 2 * 3 * 6 * 4
    assert len(calls) == 4
    assert seconds > 0
    costs = [Cost("a", 100, 10**9, 0.1, 0.5), Cost("b", 400, 2 * 10**9, 0.2, 0.7)]
    not_timed = [cost._replace(seconds=np.nan) for cost in costs]
    timed, untimed = draw_efficiency("AP", costs), draw_efficiency("AP", not_timed)
    assert timed.shape == untimed.shape == (480, 1100, 3)
    spines = [((picture.max(axis=2) < 90).sum(axis=0) > 300).sum() for picture in (timed, untimed)]
    assert spines[0] > spines[1] >= 2  # of two panels and of one
