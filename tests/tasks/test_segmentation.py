"""Networks for segmentation from folders of images to checkpoints, figures and labels."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close

from detseg import checkpoint
from detseg.callbacks import LastCheckpoint, PredictionImages
from detseg.data import RandomHorizontalFlip, RandomScaleCrop, SegmentationDataModule
from detseg.draw import save_labels
from detseg.errors import ConfigError
from detseg.inference.predictor import Predictor
from detseg.models import FCN, DilatedFCN, Segmenter
from detseg.models.tta import TTAConfig, predict_semantic
from detseg.modules.backbones import ResNet
from detseg.structures import IGNORE_INDEX
from detseg.tasks import ScheduleConfig, SegmentationTask
from tests.ranks import on_two_ranks
from tests.training import QUIET

CLASSES = ("red", "green", "blue")


class Brightest(Segmenter):
    """Says of every pixel which of its colours is the brightest; ``bias`` favours red."""

    def __init__(self, num_classes: int = 3, bias: float = 0.0, criterion: Any = "cross_entropy") -> None:
        super().__init__(num_classes, criterion)
        self.bias = nn.Parameter(torch.tensor([bias, 0.0, 0.0]))

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        return images / 64 + self.bias[:, None, None]


def write_colours(root: Path, train: int = 2, val: int = 5) -> Path:
    """Images of random colours and their classes, of several sizes; some pixels have a wrong or a void label."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for name in ("images", "masks"):
            (root / name / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            height, width = ((40, 56), (64, 64), (33, 20))[number % 3]
            pixels = generator.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
            pixels = pixels.repeat(4, 0).repeat(4, 1)[:height, :width]
            labels = pixels.argmax(2).astype(np.uint8)
            wrong = generator.random(labels.shape)
            labels[wrong < 0.2] = generator.integers(0, 3, (wrong < 0.2).sum())
            labels[wrong > 0.9] = IGNORE_INDEX
            Image.fromarray(pixels).save(root / "images" / split / f"{number}.png")
            save_labels(labels, root / "masks" / split / f"{number}.png")
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colours(tmp_path_factory.mktemp("colours"))


def data(root: Path, **settings: Any) -> SegmentationDataModule:
    transforms = [RandomScaleCrop(size=32), RandomHorizontalFlip()]
    return SegmentationDataModule(
        str(root), **{"transforms": transforms, "num_workers": 0, "batch_size": 2, **settings}
    )


def brute_force(root: Path, bias: float = 0.0) -> dict[str, float]:
    """The paper's four figures, pixel by pixel from the files."""
    counts = [[0] * 3 for _ in range(3)]
    for path in sorted((root / "images" / "val").iterdir()):
        pixels = np.array(Image.open(path)) / 64 + np.array([bias, 0, 0])
        labels = np.array(Image.open(root / "masks" / "val" / path.name))
        for found, label in zip(pixels.argmax(2).ravel().tolist(), labels.ravel().tolist(), strict=True):
            if label != IGNORE_INDEX:
                counts[label][found] += 1
    total = sum(map(sum, counts))
    of_class = [sum(row) for row in counts]
    ious = [counts[k][k] / (of_class[k] + sum(row[k] for row in counts) - counts[k][k]) for k in range(3)]
    return {
        "pixel_accuracy": sum(counts[k][k] for k in range(3)) / total,
        "mean_accuracy": sum(counts[k][k] / of_class[k] for k in range(3)) / 3,
        "mean_IoU": sum(ious) / 3,
        "frequency_weighted_IoU": sum(of_class[k] * ious[k] for k in range(3)) / total,
        **{f"IoU/{name}": iou for name, iou in zip(CLASSES, ious, strict=True)},
    }


@pytest.mark.parametrize(("batch_size", "bias"), [(1, 0.0), (3, 0.5)])
def test_figures_are_those_of_a_count_of_the_files(root: Path, batch_size: int, bias: float) -> None:
    task = SegmentationTask(Brightest(bias=bias))
    Trainer(**QUIET).validate(task, data(root, batch_size=batch_size), verbose=False)
    expected = brute_force(root, bias)
    assert {name: task.metric_values[name] for name in expected} == pytest.approx(expected)
    assert 0 < task.metric_values["mean_boundary_IoU"] < 1
    assert "mean IoU" in task.format_table(task.metric_values)
    assert "images per second" not in task.format_table(task.metric_values)


def test_validation_loss_is_the_mean_over_images(root: Path) -> None:
    task = SegmentationTask(Brightest())
    Trainer(**QUIET).validate(task, data(root, batch_size=1), verbose=False)
    losses = []
    for batch in data(root, batch_size=1).val_dataloader():
        losses.append(F.cross_entropy(batch.images / 64, batch.semantic, ignore_index=IGNORE_INDEX))
    assert task.metric_values["loss"] == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)


def test_class_weights_are_the_median_frequency(root: Path, tmp_path: Path) -> None:
    task = SegmentationTask(
        Brightest(), class_weights="median_frequency", lr=0.1, schedule=ScheduleConfig(warmup_steps=0)
    )
    settings = {**QUIET, "enable_checkpointing": True}
    Trainer(**settings, max_epochs=1, callbacks=[LastCheckpoint(tmp_path)]).fit(task, data(root))
    pixels, shown = np.zeros(3), np.zeros(3)
    for path in sorted((root / "masks" / "train").iterdir()):
        counts = np.bincount(np.array(Image.open(path)).ravel(), minlength=256)[:3]
        pixels, shown = pixels + counts, shown + counts.sum() * (counts > 0)
    frequencies = pixels / shown
    assert task.model.class_weights.tolist() == pytest.approx((np.median(frequencies) / frequencies).tolist())
    loaded = checkpoint.load(tmp_path / "last.ckpt")
    assert torch.equal(loaded.model.class_weights, task.model.class_weights)
    with pytest.raises(ConfigError, match=r"^class_weights: dice has none"):
        SegmentationTask(Brightest(criterion="dice"), class_weights="median_frequency")


def test_classes_must_agree(root: Path) -> None:
    with pytest.raises(ConfigError, match="4 classes, but the data 3"):
        Trainer(**QUIET, max_epochs=1).fit(SegmentationTask(Brightest(4)), data(root))


# Views


class Place(Segmenter):
    """Logits that depend on the place in what the network is given, so that parts and mirror images differ."""

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        across = torch.linspace(-1, 1, images.shape[3]).expand(len(images), 1, *images.shape[2:])
        down = torch.linspace(-1, 1, images.shape[2])[:, None].expand(len(images), 1, *images.shape[2:])
        return torch.cat([across, down, images[:, :1] / 128 - 1], dim=1)


@pytest.mark.parametrize(
    "views",
    [
        TTAConfig(),
        TTAConfig(crop_size=24),
        TTAConfig(flip=True),
        TTAConfig(scales=(0.5, 1.0)),
        TTAConfig(24, (1.0, 1.5), True),
    ],
)
def test_views_are_averaged(views: TTAConfig) -> None:
    """Against loops that are written out: windows a sixth of their side further each time would be others."""
    height, width = 50, 61
    model = Place(3)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([[height, width], [64, 64]])
    found = predict_semantic(model, images, sizes, views)
    assert found.shape == (2, 64, 64)
    if views == TTAConfig():
        assert torch.equal(found, model(images).argmax(dim=1))
        return
    image = images[:1, :, :height, :width]
    total = torch.zeros(1, 3, height, width)
    for scale in views.scales:
        h, w = round(height * scale), round(width * scale)
        scaled = F.interpolate(image.float(), (h, w), mode="bilinear", antialias=True).round().byte()
        for flip in [False, True] if views.flip else [False]:
            part = torch.flip(scaled, [3]) if flip else scaled
            total_part, count = torch.zeros(1, 3, h, w), torch.zeros(h, w)
            side = views.crop_size or 10**6
            tops = [0] if side >= h else sorted({*range(0, h - side, 16), h - side})
            lefts = [0] if side >= w else sorted({*range(0, w - side, 16), w - side})
            for top in tops:
                for left in lefts:
                    window = part[..., top : top + side, left : left + side]
                    total_part[..., top : top + side, left : left + side] += model(window).softmax(dim=1)
                    count[top : top + side, left : left + side] += 1
            probabilities = total_part / count
            probabilities = torch.flip(probabilities, [3]) if flip else probabilities
            total += F.interpolate(probabilities, (height, width), mode="bilinear")
    agree = (found[0, :height, :width] == total[0].argmax(dim=0)).float().mean()
    assert agree > 0.999


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"crop_size": 0}, "crop_size 0: must be"),
        ({"crop_size": 24.5}, r"crop_size 24\.5: must be"),
        ({"crop_size": True}, "crop_size True: must be"),
        ({"scales": ()}, r"scales \[\]: must be"),
        ({"scales": (1.0, -2.0)}, r"scales \[1\.0, -2\.0\]: must be"),
        ({"scales": (0,)}, r"scales \[0\]: must be"),
        ({"scales": [math.nan]}, r"scales \[nan\]: must be"),
        ({"scales": [1.0, math.inf]}, r"scales \[1\.0, inf\]: must be"),
        ({"flip": 2}, "flip 2: must be"),
    ],
)
def test_views_that_make_no_sense(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TTAConfig(**values)


def test_views_are_values() -> None:
    assert TTAConfig(scales=[1.0]) == TTAConfig()
    with pytest.raises(AttributeError):
        TTAConfig().crop_size = 3  # type: ignore[misc]


def test_classes_without_a_labelled_pixel_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Masks of 0 and 255, in which 255 was meant for the object: the figures are perfect, and nobody would know."""
    for split in ("train", "val"):
        for name in ("images", "masks"):
            (tmp_path / name / split).mkdir(parents=True)
        Image.new("RGB", (40, 40), (255, 0, 0)).save(tmp_path / "images" / split / "a.png")
        mask = np.zeros((40, 40), dtype=np.uint8)
        mask[10:20] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / split / "a.png")
    (tmp_path / "classes.txt").write_text("ground\ncrack\nleaf\n")
    task = SegmentationTask(Brightest())
    Trainer(**QUIET, max_epochs=2).fit(task, data(tmp_path, batch_size=1))
    assert task.metric_values["mean_IoU"] == 1.0
    said = [message for message in caplog.messages if "no pixel that is labelled" in message]
    assert len(said) == 2
    assert {message.partition(" has no pixel that is labelled crack, leaf: ")[0] for message in said} == {
        "the first epoch",
        "the validation",
    }
    assert "255 means void, which is not a class; if it is meant for one, write the number of that class" in said[0]


def test_no_class_is_named_where_all_are_labelled(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    Trainer(**QUIET, max_epochs=1).fit(SegmentationTask(Brightest()), data(root))
    assert "no pixel that is labelled" not in caplog.text


@pytest.mark.parametrize(("height", "width"), [(91, 123), (70, 101)])  # 70 is 72 for stride 8, and 96 for 32
@pytest.mark.parametrize(
    "make",
    [
        lambda: DilatedFCN(ResNet("resnet18", stages=[2, 3]), 3),
        lambda: FCN(ResNet("resnet18", stages=[2, 3]), 3, stride=4),
        lambda: FCN(ResNet("resnet18"), 3, stride=8),
    ],
)
@torch.no_grad()
def test_evaluation_and_prediction_give_the_same_logits(make: Any, height: int, width: int, tmp_path: Path) -> None:
    """Of an image whose sides are no multiples of any stride, alone, and in a batch with one that needs no padding."""
    for name in ("images", "masks"):
        (tmp_path / name / "val").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name, size in {"a": (height, width), "b": (96, 128)}.items():
        image = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "images" / "val" / f"{name}.png")
        Image.fromarray(image[..., 0] * 0).save(tmp_path / "masks" / "val" / f"{name}.png")
    for folder in ("images", "masks"):
        (tmp_path / folder / "train").symlink_to(tmp_path / folder / "val")
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    torch.manual_seed(0)
    model = make().eval()
    for name, value in model.named_parameters():
        if name.startswith("scores."):
            value.normal_()
    (batch,) = data(tmp_path, batch_size=2).val_dataloader()
    evaluated = model.validate(batch)[1][:1, :, :height, :width]
    image = np.array(Image.open(tmp_path / "images" / "val" / "a.png"))
    predicted = model(torch.from_numpy(image).permute(2, 0, 1)[None])
    assert predicted.std() > 1e-3
    assert_close(predicted, evaluated, rtol=1e-4, atol=1e-4 * float(predicted.std()))


def test_views_are_for_figures_and_predictions(root: Path) -> None:
    """Each pixel by itself: a network without any surroundings says the same however it is looked at."""
    task = SegmentationTask(Brightest())
    task.tta = TTAConfig(crop_size=16, flip=True)
    Trainer(**QUIET).validate(task, data(root), verbose=False)
    expected = brute_force(root)
    assert {name: task.metric_values[name] for name in expected} == pytest.approx(expected)


def test_prediction_is_of_the_image_file(root: Path, tmp_path: Path) -> None:
    task = SegmentationTask(Brightest(), lr=0.0)
    Trainer(**QUIET, max_epochs=1).fit(task, data(root))
    found = Predictor(task.model)(root / "images" / "val")
    assert [one.path.name for one in found] == [f"{number}.png" for number in range(5)]
    for one in found:
        pixels = np.array(Image.open(one.path))
        expected = (pixels.astype(np.float32) / 64).argmax(2)
        assert np.array_equal(one.labels, expected)
        shares = {name: float((expected == label).mean()) for label, name in enumerate(CLASSES)}
        assert one.class_fractions == pytest.approx({name: share for name, share in shares.items() if share})
        assert list(one.class_fractions.values()) == sorted(one.class_fractions.values(), reverse=True)


def measure(folder: Path, roots: list[Path]) -> None:
    """Write the figures of each data set to a file of its name, and pictures."""
    trainer = Trainer(**QUIET, devices=2, callbacks=[PredictionImages()], default_root_dir=folder)
    for root in roots:
        task = SegmentationTask(Brightest(bias=0.3))
        trainer.validate(task, data(root), verbose=False)
        if trainer.is_global_zero:
            (folder / f"{root.name}.json").write_text(json.dumps(task.metric_values))


def test_two_ranks_measure_what_one_does(tmp_path: Path) -> None:
    """To the last bit: with an odd number of images, and with a rank that has none."""
    roots = [write_colours(tmp_path / name, val=count) for name, count in (("odd", 7), ("one_image", 1))]
    on_two_ranks(measure, tmp_path, roots)
    for root in roots:
        task = SegmentationTask(Brightest(bias=0.3))
        Trainer(**QUIET).validate(task, data(root), verbose=False)
        together = json.loads((tmp_path / f"{root.name}.json").read_text())
        measured = [name for name in together if "IoU" in name or "accuracy" in name]
        assert len(measured) == 5 + 3 * 3
        assert {name: str(together[name]) for name in measured} == {
            name: str(task.metric_values[name]) for name in measured
        }
        assert 0 < task.metric_values["mean_IoU"] < 1
        assert together["loss"] == pytest.approx(task.metric_values["loss"])
    width, height = Image.open(tmp_path / "pictures" / "0.jpg").size
    assert width == 3 * 56 + 2 * 4  # the image, its labels, and those that were found
    assert height > 40  # and what the colours mean
