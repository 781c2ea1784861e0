"""The list of transforms in files and on the command line, with a transform from outside the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from detseg import cli
from detseg.cli._configs import find_configs
from detseg.cli._parser import instantiate, make_parser, parse
from detseg.configurable import to_config
from detseg.data import COCO, DetectionDataModule
from detseg.errors import ConfigError
from tests.colours import write_colours

INVERT = """
from detseg.data import Transform

class Invert(Transform):
    def __init__(self, p: float = 1.0) -> None:
        self.p = p

    def __call__(self, sample, generator):
        return sample._replace(image=255 - sample.image) if generator.random() < self.p else sample
"""
DATA = ["--data", "COCO", "--data.root", "colours"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("my_transforms.py").write_text(INVERT)


def data(*arguments: str) -> COCO:
    """Build the data set that the arguments describe."""
    parser = make_parser("browse", "")
    parser.add_subclass_arguments(DetectionDataModule, "data", required=True)
    module = instantiate(parser, parse(parser, find_configs([*DATA, *arguments]))).data
    assert isinstance(module, COCO)
    return module


def steps(module: COCO) -> list[tuple[str, dict[str, object]]]:
    return [(step["class"], step["init_args"]) for step in to_config(module.transforms)]


def test_a_transform_from_outside_changes_training_alone() -> None:
    write_colours(Path("colours"))
    module = data("--data.transforms", "[{class_path: Resize, init_args: {size: 64}}, my_transforms.Invert]")
    plain = data("--data.transforms", "[{class_path: Resize, init_args: {size: 64}}]")
    for split, inverted in (("train", True), ("val", False)):
        ours, theirs = module.dataset(split)[0].image, plain.dataset(split)[0].image
        assert ours.equal(255 - theirs if inverted else theirs)
    assert module.preprocessing == plain.preprocessing


def test_a_list_in_a_file_can_be_extended() -> None:
    listed = ["Resize", {"class_path": "Albumentations", "init_args": {"transforms": {"ColorJitter": {"p": 0.5}}}}]
    Path("data.yaml").write_text(yaml.safe_dump(listed))
    module = data("--data.transforms", json.dumps(listed), "--data.transforms+", "my_transforms.Invert")
    names = [name for name, _ in steps(module)]
    assert names == ["Resize", "Albumentations", "my_transforms.Invert"]


def test_an_option_sets_an_argument_in_the_default_list() -> None:
    module = data("--data.transforms.Resize.size", "[48, 64]", "--data.transforms.RandomHorizontalFlip.p=0.25")
    (_, resize), (flip, values) = steps(module)
    assert (resize["size"], resize["max_size"]) == ([48, 64], 1333)
    assert (flip, values) == ("RandomHorizontalFlip", {"p": 0.25})


def test_options_of_0_1_0_set_arguments_in_the_list() -> None:
    module = data("--data.transforms.size", "48", "--data.transforms.init_args.flip=0", "--data.transforms.crop", "1.0")
    (_, resize), (_, flip) = steps(module)
    assert (resize["size"], resize["crop"], flip["p"]) == (48, 1.0, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.transforms.Mosaic.p", "1"], r"Mosaic: is not in the list .*\(Resize, RandomHorizontalFlip\); append"),
        (["--data.transforms.Resize.siz", "1"], r"data\.transforms\.Resize\.siz: .*did you mean size\?"),
        (["--data.transforms.Resize.size"], r"data\.transforms\.Resize\.size: its value is missing"),
        (["--data.transforms", "[RandomFlip]"], r"RandomFlip is neither .*did you mean .*RandomHorizontalFlip"),
        (["--data.transforms", "[Resize, 3]"], r"data\.transforms"),
    ],
)
def test_what_is_wrong_is_named(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        data(*arguments)


def test_training_takes_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    config = ["--config", "faster_rcnn_r50.yaml"]
    with pytest.raises(SystemExit):
        cli.main(["train", *config, *DATA, "--data.transforms.Resize.size", "48", "--print_config"])
    settings = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]
    assert settings["transforms"][0]["init_args"]["size"] == 48
