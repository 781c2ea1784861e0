"""Images in class folders: what is found, how it is split, and what becomes of the pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from detseg.data import ClassificationDataModule, ImageSample, RandomHorizontalFlip, RandomResizedCrop
from detseg.data.transforms.transform import apply_transforms
from detseg.errors import ConfigError, DataError
from detseg.inference.preprocessing import preprocess
from tests.colours import COLOURS, write_classes


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("classes"))


def data(root: Path, **arguments) -> ClassificationDataModule:
    transforms = [RandomResizedCrop(arguments.pop("size", 32)), RandomHorizontalFlip()]
    return ClassificationDataModule(str(root), **{"transforms": transforms, "num_workers": 0, **arguments})


def test_files_and_labels_are_those_of_torchvision(root: Path) -> None:
    theirs = torchvision.datasets.ImageFolder(str(root / "train"))
    listing = data(root).annotations("train")
    assert list(listing.classes) == theirs.classes
    assert [
        (str(listing.root / f), label) for f, label in zip(listing.files, listing.labels, strict=True)
    ] == theirs.samples


def test_a_batch_has_a_class_for_each_image(root: Path) -> None:
    batch = next(iter(data(root, batch_size=6).val_dataloader()))
    assert batch.images.shape == (6, 3, 32, 32)
    assert batch.images.dtype == torch.uint8
    assert batch.targets.labels[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert batch.targets.valid.sum(dim=1).tolist() == [1] * 6
    channels = [list(COLOURS[name]).index(255) for name in sorted(COLOURS)]
    assert batch.images.float().mean(dim=(2, 3)).argmax(dim=1).tolist() == np.repeat(channels, 2).tolist()


def test_training_sees_every_image_once_and_is_repeatable(root: Path) -> None:
    loader = data(root, batch_size=5).train_dataloader()
    first, again = list(loader), list(loader)
    assert sorted(torch.cat([batch.image_index for batch in first]).tolist()) == list(range(12))
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, again, strict=True))


def test_without_splits_a_share_of_each_class_is_held_out(tmp_path: Path) -> None:
    write_classes(tmp_path, train=5, val=1)
    one = data(tmp_path / "train", split={"val_fraction": 0.4})
    train, val = one.annotations("train"), one.annotations("val")
    assert np.bincount(train.labels).tolist() == [3, 3, 3]
    assert np.bincount(val.labels).tolist() == [2, 2, 2]
    assert not set(train.files) & set(val.files)


def test_evaluation_shows_the_middle() -> None:
    image = np.zeros((80, 120, 3), np.uint8)
    image[5:75, 25:95] = 255  # 7/8 of the short edge
    transformed = preprocess(image, data(Path("x"), size=70).preprocessing).image.permute(1, 2, 0).numpy()
    assert transformed.shape == (70, 70, 3)
    assert (transformed == 255).all()


def test_training_crops_have_the_areas_and_ratios_asked_for() -> None:
    """Seen by a picture whose pixels say where they are."""
    y, x = np.mgrid[:100, :200]
    image = np.stack([x, y, y], axis=2).astype(np.uint8)
    transform = RandomResizedCrop(64, scale=(0.2, 0.5))
    for seed in range(50):
        crop = transform(ImageSample(image), np.random.default_rng(seed)).image.astype(float)
        width = (crop[:, -1, 0].mean() - crop[:, 0, 0].mean()) * 64 / 63
        height = (crop[-1, :, 1].mean() - crop[0, :, 1].mean()) * 64 / 63
        assert 0.16 < width * height / 20000 < 0.56
        assert 0.68 < width / height < 1.48


def test_mirrors(root: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    whole = RandomResizedCrop(40, scale=(1.0, 1.0))
    flips = ([whole, RandomHorizontalFlip(p)] for p in (0.0, 1.0))
    shown = [apply_transforms(transforms, ImageSample(image), 3).image for transforms in flips]
    ratio = [apply_transforms([whole], ImageSample(image), seed).image.shape for seed in range(5)]
    assert np.array_equal(shown[0], shown[1][:, ::-1])
    assert ratio == [(40, 40, 3)] * 5


def test_classes_are_matched_by_name(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = data(root)
    one.use_classes(["red", "cat", "blue"])
    assert one.annotations("val").labels.tolist() == [2, 2, 0, 0]
    assert "left out 2 images of other classes: green" in caplog.text
    with pytest.raises(
        DataError, match=r"none of its classes \(blue, green, red\) is among the classes to predict \(cat\)"
    ):
        one.use_classes(["cat"])


def test_what_is_missing_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        data(tmp_path / "nowhere").annotations("train")
    with pytest.raises(DataError, match=r"test: there is no such folder; `split\.val` names one of train, val"):
        data(root, split={"val": "test"}).annotations("val")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no folder of a class"):
        data(tmp_path / "empty").annotations("train")
    (tmp_path / "one" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="cat: no image of this class"):
        data(tmp_path / "one").annotations("train")
    Image.new("RGB", (4, 4)).save(tmp_path / "one" / "cat" / "1.png")
    with pytest.raises(DataError, match="cat: one image cannot be shared"):
        data(tmp_path / "one").annotations("train")


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    write_classes(tmp_path, train=1, val=1)
    (tmp_path / "train" / "blue" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"blue.0\.png"):
        list(data(tmp_path).train_dataloader())


@pytest.mark.parametrize("values", [{"scale": (0.0, 1.0)}, {"scale": (0.5, 0.2)}, {"size": 0}])
def test_values_that_make_no_sense(values) -> None:
    with pytest.raises(ConfigError, match=f"RandomResizedCrop: {next(iter(values))}"):
        RandomResizedCrop(**values)
    with pytest.raises(ConfigError, match="batch_size"):
        ClassificationDataModule("x", batch_size=0)


def test_images_of_several_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="images of one size; add RandomResizedCrop"):
        ClassificationDataModule("x", transforms=[RandomHorizontalFlip()])


@pytest.mark.parametrize(
    ("seed", "means"), [(1, (96.0, 88.0, 182.0)), (2, (159.0, 110.0, 105.0)), (3, (169.4, 78.0, 207.0))]
)
def test_a_seed_draws_what_it_drew_in_0_1_0(seed: int, means: tuple[float, ...]) -> None:
    """The values were recorded with ``ImageFolders`` of version 0.1.0."""
    y, x = np.mgrid[:60, :80]
    sample = ImageSample(np.stack([3 * x, 4 * y, x + y], axis=2).astype(np.uint8))
    image = apply_transforms([RandomResizedCrop(32), RandomHorizontalFlip()], sample, seed).image
    red, green, _ = image.mean(axis=(0, 1))
    assert (red, green, image[:, -1, 0].mean()) == pytest.approx(means, abs=0.5)
