"""What holds for every backbone. A new one gets all of it from a subclass of a few lines::

class TestVGG(PretrainedTester):
    kind = VGG
    name = "vgg16"
    arguments = {"name": name}
    nodes = ("features.8", "features.15", "features.22", "features.29", "features.30")
    frozen = ("features.0.", "features.2.")
"""

from __future__ import annotations

import copy
import inspect
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.transforms.functional import normalize

from detseg.configurable import from_config, to_config
from detseg.errors import CheckpointError
from detseg.models import Classifier
from detseg.modules.backbones import Backbone, ConvNet
from detseg.structures import Batch, Instances


def images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def labelled(batch: Tensor, labels: list[int]) -> Batch:
    """Images with a class each."""
    whole = torch.tensor([0.0, 0, *batch.shape[:1:-1]]).expand(len(batch), 1, 4)
    targets = Instances(whole, torch.ones(len(batch), 1, dtype=torch.bool), torch.tensor(labels)[:, None])
    sizes = torch.tensor([batch.shape[2:]]).expand(len(batch), 2)
    return Batch(batch, sizes, targets, torch.arange(len(batch)), sizes)


def shake(network: nn.Module) -> nn.Module:
    """Give batch norm the statistics of a network that has seen something."""
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return network


def architecture(network: nn.Module) -> dict[str, object]:
    parts: dict[str, object] = {name: type(module) for name, module in network.named_modules()}
    parts |= {name: (value.shape, value.requires_grad) for name, value in network.named_parameters()}
    return parts | {name: value.shape for name, value in network.state_dict().items() if name not in parts}


def on_meta(backbone: type[Backbone], **arguments: Any) -> Classifier:
    """The classifier of 1000 classes without the memory for its values, to be counted."""
    with torch.device("meta"):
        return Classifier(backbone(**arguments), num_classes=1000).eval()


def published_maps(backbone: ConvNet, pictures: torch.Tensor) -> list[torch.Tensor]:
    """Compute the maps with the arithmetic of the published classifier."""
    return backbone.forward_intermediates(pictures, backbone.return_blocks, stride_aligned=False)


def millions(network: nn.Module) -> float:
    return sum(value.numel() for value in network.parameters()) / 1e6


def multiply_adds(network: nn.Module, size: int = 224) -> float:
    """Of all convolutions and matrices, in billions, for one square image."""
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, size, size, dtype=torch.uint8, device="meta"))
    return counter.get_total_flops() / 2e9


def assert_is_published(classifier: Classifier, name: str, **options: Any) -> None:
    """Every variant has the tensors of torchvision's whole network, and the parameters and operations it tells."""
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, weights=None, **options)
    places = ("backbone.", "head.", "auxiliary.")
    own = {
        key.removeprefix(part): value
        for key, value in classifier.state_dict().items()
        for part in places
        if key.startswith(part)
    }
    assert {key: value.shape for key, value in own.items()} == {
        key: value.shape for key, value in theirs.state_dict().items()
    }
    meta = torchvision.models.get_model_weights(name).IMAGENET1K_V1.meta
    helpers = sum(value.numel() for value in classifier.auxiliary.parameters())
    if "inception" in name:
        helpers = 0  # torchvision counts that of Inception-v3, and not those of GoogLeNet
    assert sum(value.numel() for value in classifier.parameters()) - helpers == meta["num_params"]
    size = 299 if "inception" in name else 224
    assert multiply_adds(classifier, size) == pytest.approx(meta["_ops"], abs=0.001)


def assert_channels_are_true(backbone: Backbone, size: int = 64) -> None:
    maps = backbone(torch.zeros(1, 3, size, size, dtype=torch.uint8, device="meta"))
    assert [tuple(feature.shape[1:]) for feature in maps] == [
        (channels, size // stride, size // stride)
        for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
    ]


@torch.no_grad()
def assert_centred(backbone: Backbone) -> None:
    """A pixel i x stride is seen by as many cells before cell i as after it."""
    pixel = 256
    pictures = torch.zeros(1, 3, 32, 2 * pixel)
    pictures[..., pixel] = torch.nan
    for feature, stride in zip(backbone.eval()(pictures), backbone.strides, strict=True):
        (seen,) = feature.isnan().any(dim=(0, 1, 2)).nonzero(as_tuple=True)
        cell = pixel // stride
        assert cell - seen[0] == seen[-1] - cell, stride
        assert seen[0] > 0


class Narrow(nn.Linear):
    """A layer of AlexNet's and VGG's heads with 16 units for 4096, which would take the most time of their tests."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(16 if inputs == 4096 else inputs, 16 if outputs == 4096 else outputs)


class BackboneTester:
    """The contract of ``Backbone``."""

    kind: type[Backbone]
    arguments: Mapping[str, Any] = {}
    frozen: tuple[str, ...]  # beginnings of the names of the parameters that do not train with frozen=2
    size = (64, 64)  # of small images
    classified = (64, 64)  # of images large enough to classify, as published
    rounds_down = False  # whether poolings leave out the last pixel of an odd size
    compiled: Mapping[str, Any] = {"stages": [3]}  # arguments of the network that is compiled
    narrow = False  # whether heads of 4096 units are tested with fewer, torchvision's as well as ours

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def narrowed(cls) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            if cls.narrow:
                patch.setattr(nn, "Linear", Narrow)
            yield

    @classmethod
    def make(cls, **arguments: Any) -> Backbone:
        return cls.kind(**{**cls.arguments, **arguments})

    @pytest.fixture(scope="class")
    @classmethod
    def backbone(cls) -> Backbone:
        torch.manual_seed(0)
        return shake(cls.make()).eval()

    @torch.no_grad()
    def test_channels_and_strides_are_true(self, backbone) -> None:
        maps = backbone(images(2, 3, 128, 64))
        expected = [
            (2, channels, 128 // stride, 64 // stride)
            for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
        ]
        assert [tuple(feature.shape) for feature in maps] == expected

    def test_maps_come_fine_to_coarse(self, backbone) -> None:
        assert backbone.strides == sorted(set(backbone.strides))

    @torch.no_grad()
    @pytest.mark.parametrize("size", [(65, 97), (127, 70), (33, 64)])
    def test_odd_sizes(self, backbone, size) -> None:
        for feature, stride in zip(backbone(images(1, 3, *size)), backbone.strides, strict=True):
            for cells, pixels in zip(feature.shape[2:], size, strict=True):
                assert cells in (-(-pixels // stride), pixels // stride if self.rounds_down else -1)

    def test_gradients_reach_every_trained_parameter(self) -> None:
        backbone = self.make()
        sum(feature.square().mean() for feature in backbone(images(2, 3, 64, 64))).backward()
        untouched = [
            name
            for name, value in backbone.named_parameters()
            if value.requires_grad and (value.grad is None or not value.grad.any())
        ]
        assert untouched == []

    @pytest.mark.parametrize("frozen", [-1, 6])
    def test_stages_that_cannot_be_frozen(self, frozen) -> None:
        with pytest.raises(ValueError, match=rf"frozen {frozen}: there are \d stages"):
            self.make(frozen=frozen)

    def test_what_is_frozen_stays(self) -> None:
        backbone = shake(self.make(frozen=2))
        frozen = {name for name, value in backbone.named_parameters() if not value.requires_grad}
        assert frozen == {name for name, _ in backbone.named_parameters() if name.startswith(self.frozen)}
        before = copy.deepcopy(backbone.state_dict())
        optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1, weight_decay=0.1)
        for mode in (False, True):
            backbone.train(mode)
        sum(feature.square().mean() for feature in backbone(images(2, 3, 64, 64))).backward()
        optimizer.step()
        changed = {name for name, value in backbone.state_dict().items() if not torch.equal(value, before[name])}
        assert changed == {name for name in before if not name.startswith(self.frozen)}

    @torch.no_grad()
    def test_evaluation_is_deterministic(self, backbone) -> None:
        for one, other in zip(backbone(images(1, 3, 64, 64)), backbone(images(1, 3, 64, 64)), strict=True):
            assert torch.equal(one, other)

    @torch.no_grad()
    def test_batch_equals_one_by_one(self, backbone) -> None:
        batch, sizes = images(3, 3, 64, 96), torch.tensor([(64, 96), (40, 96), (64, 50)])
        together = backbone(batch, sizes)
        for row in range(3):
            for feature, alone in zip(together, backbone(batch[row, None], sizes[row, None]), strict=True):
                assert_close(feature[row, None], alone, rtol=1e-4, atol=1e-4 * max(1, float(alone.abs().max())))

    @torch.no_grad()
    def test_pixels_outside_the_sizes_do_not_matter(self, backbone) -> None:
        sizes = torch.tensor([(64, 50), (40, 64)])
        batch = images(2, 3, 64, 64)
        other = batch.clone()
        other[0, :, :, 50:] = 255
        other[1, :, 40:] = 0
        assert not torch.equal(batch, other)
        for feature, same in zip(backbone(batch, sizes), backbone(other, sizes), strict=True):
            assert torch.equal(feature, same)

    def test_compiles_into_one_graph(self) -> None:
        """Up to the stage of stride 8: what follows are more blocks of the same classes."""
        torch.compiler.reset()
        backbone = self.make(**self.compiled).eval()
        batch, sizes = images(2, 3, *self.size), torch.tensor([self.size, self.size])
        expected = backbone(batch, sizes)
        for feature, same in zip(
            torch.compile(backbone, fullgraph=True, backend="eager")(batch, sizes), expected, strict=True
        ):
            assert_close(feature, same, rtol=1e-4, atol=1e-4)

    @torch.no_grad()
    def test_state_round_trip(self, backbone) -> None:
        torch.manual_seed(1)
        copied = self.make().eval()
        copied.load_state_dict(backbone.state_dict())
        for feature, same in zip(backbone(images(1, 3, 64, 64)), copied(images(1, 3, 64, 64)), strict=True):
            assert torch.equal(feature, same)

    @pytest.mark.parametrize("arguments", [{}, {"frozen": 1}])
    def test_recipe_round_trip(self, arguments) -> None:
        with torch.device("meta"):
            backbone = self.make(**arguments)
            rebuilt = from_config(json.loads(json.dumps(to_config(backbone))))
        assert architecture(rebuilt) == architecture(backbone)
        assert (rebuilt.channels, rebuilt.strides) == (backbone.channels, backbone.strides)

    def test_is_a_classifier(self) -> None:
        classifier = Classifier(self.make(), num_classes=3)
        batch = labelled(images(2, 3, *self.classified), [0, 2])
        sum(classifier.loss(batch).values()).backward()
        assert [name for name, value in classifier.named_parameters() if value.grad is None] == []
        rebuilt = from_config(json.loads(json.dumps(to_config(classifier))))
        assert architecture(rebuilt) == architecture(classifier)
        logits = classifier.eval()(batch.images)
        assert logits.shape == (2, 3)
        assert_close(
            classifier.loss(batch)["loss_classifier"], torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2]))
        )


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.target,)


class PretrainedTester(BackboneTester):
    """The contract of a backbone that takes torchvision's weights."""

    name: str  # of the network in torchvision
    options: Mapping[str, Any] = {}  # what torchvision's network is built with
    default_frozen: tuple[str, ...] = ()  # as ``frozen``, with weights and without ``frozen``; empty: the same
    stranger = "squeezenet1_1"  # a network whose weights do not fit
    nodes: tuple[str, ...]  # its modules whose outputs are the maps
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

    @pytest.fixture(scope="class")
    @classmethod
    def theirs(cls) -> nn.Module:
        torch.manual_seed(2)
        return shake(torchvision.models.get_model(cls.name, weights=None, **cls.options)).eval()

    @pytest.fixture(scope="class")
    @classmethod
    def weights(cls, theirs, tmp_path_factory) -> str:
        path = tmp_path_factory.mktemp("weights") / "weights.pth"
        torch.save(theirs.state_dict(), path)
        return str(path)

    @torch.no_grad()
    def test_features_are_those_of_torchvision(self, theirs, weights) -> None:
        batch = images(2, 3, 75, 98)
        normal = normalize(batch / 255, self.mean, self.std)
        expected = create_feature_extractor(theirs, list(self.nodes))(normal)
        backbone = self.make(weights=weights).eval()
        features = published_maps(backbone, batch)
        for feature, node in zip(features, self.nodes, strict=True):
            assert_close(feature, expected[node], rtol=1e-4, atol=1e-4 * float(expected[node].abs().max()))

    @torch.no_grad()
    def test_logits_are_those_of_torchvision(self, theirs, weights) -> None:
        batch = images(2, 3, *self.classified)
        expected = theirs(normalize(batch / 255, self.mean, self.std))
        assert_close(Classifier(self.make(weights=weights), 1000).eval()(batch), expected, rtol=1e-4, atol=1e-4)

    def test_a_trained_classifier_gives_weights(self, tmp_path) -> None:
        """Of a task, whose classes are others than those of the next: the last layer then begins anew."""
        trained = Classifier(shake(self.make()), num_classes=5)
        expected = trained.state_dict()
        state = {f"model.{name}": value for name, value in expected.items()}
        torch.save({"state_dict": state, "detseg": {}}, tmp_path / "best.ckpt")
        again = Classifier(self.make(weights=str(tmp_path / "best.ckpt")), num_classes=5)
        for name, value in again.state_dict().items():
            assert torch.equal(value, expected[name]), name
        other = Classifier(self.make(weights=str(tmp_path / "best.ckpt")), num_classes=6)
        for name, value in other.backbone.state_dict().items():
            assert torch.equal(value, expected[f"backbone.{name}"]), name

    def test_weights_without_the_classifier_are_enough(self, theirs, weights, tmp_path) -> None:
        state = theirs.state_dict()
        torch.save({name: state[name] for name in state if not name.startswith(("fc.", "classifier."))}, tmp_path / "w")
        whole = self.make(weights=weights).state_dict()
        for name, value in self.make(weights=str(tmp_path / "w")).state_dict().items():
            assert torch.equal(value, whole[name])

    def test_pretrained_stages_and_batch_norm_are_frozen(self, weights) -> None:
        backbone = self.make(weights=weights).train()
        frozen = {name for name, value in backbone.named_parameters() if not value.requires_grad}
        expected = self.default_frozen or self.frozen
        assert frozen == {name for name, _ in backbone.named_parameters() if name.startswith(expected)}
        before = copy.deepcopy(dict(backbone.named_buffers()))
        backbone(images(2, 3, 64, 64))
        assert all(torch.equal(value, before[name]) for name, value in backbone.named_buffers())

    @pytest.mark.parametrize("arguments", [{}, {"norm": "batch"}, {"frozen": 0}])
    def test_recipe_gives_the_same_architecture_without_the_weights(self, weights, arguments) -> None:
        if "norm" in arguments and "norm" not in inspect.signature(self.kind).parameters:
            pytest.skip("a network without batch norm")
        backbone = self.make(weights=weights, **arguments)
        description = json.dumps(to_config(backbone))
        assert weights not in description
        rebuilt = from_config(json.loads(description))
        assert architecture(rebuilt) == architecture(backbone)

    def test_a_subclass_with_a_constructor_of_its_own(self, weights) -> None:
        """What follows from the weights must not be repeated as an argument that the subclass does not have."""
        arguments = dict(self.arguments)

        class Own(self.kind):  # type: ignore[misc, name-defined]
            def __init__(self, weights: str | None = None) -> None:
                super().__init__(**arguments, weights=weights)

        Own.__qualname__ = f"{type(self).__name__}.Own"  # those of other tests may still be there
        backbone = Own(weights)
        assert architecture(from_config(to_config(backbone))) == architecture(backbone)

    @pytest.mark.parametrize("weights", ["no/such/file.pth", "IMAGENET1K_V9"])
    def test_weights_that_do_not_exist(self, weights) -> None:
        with pytest.raises(CheckpointError, match=f"{weights}.*IMAGENET1K_V1"):
            self.make(weights=weights)

    def test_weights_of_another_network(self, tmp_path) -> None:
        path = tmp_path / "other.pth"
        torch.save(torchvision.models.get_model(self.stranger, weights=None).state_dict(), path)
        with pytest.raises(CheckpointError, match=f"other.pth: .*{self.name}.*missing.*unexpected"):
            self.make(weights=str(path))

    def test_weights_of_another_shape(self, theirs, tmp_path) -> None:
        name, value = next(iter(theirs.state_dict().items()))
        torch.save({name: value[:1]}, tmp_path / "narrow.pth")
        with pytest.raises(CheckpointError, match=f"narrow.pth: .*another shape.*{name}"):
            self.make(weights=str(tmp_path / "narrow.pth"))

    @pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04broken"])
    def test_broken_file(self, tmp_path, content) -> None:
        path = tmp_path / "broken.pth"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"broken\.pth"):
            self.make(weights=str(path))

    @pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {"epoch": 3}, {3: torch.zeros(1)}])
    def test_file_that_holds_something_else(self, tmp_path, content) -> None:
        path = tmp_path / "other.pth"
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=r"other\.pth"):
            self.make(weights=str(path))

    def test_file_that_would_run_code(self, tmp_path) -> None:
        torch.save({"conv1.weight": Payload(tmp_path / "executed")}, tmp_path / "evil.pth")
        with pytest.raises(CheckpointError, match=r"evil\.pth"):
            self.make(weights=str(tmp_path / "evil.pth"))
        assert not (tmp_path / "executed").exists()
