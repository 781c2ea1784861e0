"""Messages of the library name Python arguments; the commands print the options that set them."""

import pytest

from detseg.cli._options import with_options


@pytest.mark.parametrize(
    ("command", "message", "printed"),
    [
        (
            "train",
            "set fewer `num_workers`, or `num_workers=0`",
            "set fewer `--data.num_workers`, or `--data.num_workers 0`",
        ),
        ("train", "add `masks='all'`", "add `--data.masks all`"),
        ("train", "split.val_fraction: 2 is", "--data.split.val_fraction: 2 is"),
        ("train", "give `split.train='FILE'`", "give `--data.split.train FILE`"),
        ("check", "choose with `format='YOLO'`", "choose with `--format YOLO`"),
        ("check", "give `format.images.train='FOLDER'`", "give `--format.images.train FOLDER`"),
        ("predict", "batch_size 0: must be 1", "--batch_size 0: must be 1"),
        ("predict", "scales [0.0, 1.0]: must be", "--scales [0.0, 1.0]: must be"),
        ("train", "masks of two: are", "masks of two: are"),
        ("train", "full; resume the training", "full; resume the training with --resume last"),
        ("convert", "class_names: 3 of 4", "--classes: 3 of 4"),
        ("convert", "a.pth: class_names: 3 of 4", "a.pth: class_names: 3 of 4"),
        ("predict", "add `masks='all'`", "add `masks='all'`"),  # it has no such option
        ("train", "`detseg check my/folder` lists them; lr and `other=1` stay", None),
    ],
)
def test_arguments_become_options(command: str, message: str, printed: str | None) -> None:
    assert with_options(message, command) == (printed or message)
