"""A format from outside the package: check, fix, conversion, training and evaluation take it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from detseg import checkpoint, cli
from detseg.data import FORMATS, DatasetFormat, DatasetSource, DetectionAnnotations, DetectionDataModule
from detseg.data.annotations.builder import Builder
from detseg.data.annotations.issues import FAIL_FAST, AnnotationError, IssueCollector
from detseg.data.annotations.masks import MaskReading
from detseg.data.formats.layout import Tree
from tests.colours import write_colours

MODEL = """\
model:
  class_path: FasterRCNN
  init_args:
    backbone:
      class_path: FPN
      init_args:
        channels: 8
        backbone:
          class_path: MobileNetV1
          init_args: {alpha: 0.125}
trainer:
  accelerator: cpu
  max_epochs: 1
  limit_train_batches: 1
"""


class ToyFormat(DatasetFormat):
    """SPLIT.toy with lines of an image, a class and four corners."""

    name = "Toy"
    tasks = ("detection", "instance_segmentation")
    marks = "SPLIT.toy"

    def detect(self, tree: Tree) -> list[DatasetSource]:
        files = {Path(file).stem: file for file in tree.ending(".toy")}
        return [DatasetSource(self, tree, tree.root, files)] if files else []

    def read(
        self, source: DatasetSource, split: str, masks: MaskReading = "none", issues: IssueCollector = FAIL_FAST
    ) -> DetectionAnnotations:
        file = source.tree.root / source.splits[split]
        builder = Builder(file, source.tree.root, issues)
        images: dict[str, int] = {}
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            image, name, *corners = line.split()
            if image not in images:
                images[image] = builder.image(image)
            try:
                if len(corners) != 4:
                    raise AnnotationError("label-broken", f"has {len(corners)} corners")
                x1, y1, x2, y2 = map(float, corners)
                builder.add(images[image], name, (x1, y1, x2, y2))
            except AnnotationError as error:
                issues.report(error.kind, file, f"{file}: line {number} {error}", number)
        return builder.annotations()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The colours of the other tests, in the toy format, which is plugged in."""
    monkeypatch.chdir(tmp_path)
    write_colours(tmp_path / "colours", train=4, val=2)
    data = DetectionDataModule("colours")
    (tmp_path / "toy").mkdir()
    for split in ("train", "val"):
        table, lines = data.annotations(split), []
        for index in range(len(table)):
            name = f"{split}_{table.path(index).name}"
            (tmp_path / "toy" / name).write_bytes(table.path(index).read_bytes())
            for i in range(*table.objects(index).indices(len(table.labels))):
                corners = " ".join(f"{value:g}" for value in table.boxes[i])
                lines.append(f"{name} {table.classes[table.labels[i]]} {corners}\n")
        (tmp_path / "toy" / f"{split}.toy").write_text("".join(lines))
    FORMATS.append(ToyFormat())
    yield tmp_path / "toy"
    del FORMATS[-1]


def test_its_labels_are_read(root: Path) -> None:
    own, theirs = DetectionDataModule("toy"), DetectionDataModule("colours")
    assert np.array_equal(own.train_annotations.boxes, theirs.train_annotations.boxes)
    assert own.classes == tuple(sorted(theirs.classes))
    assert len(DetectionDataModule("toy", "Toy").val_annotations) == 2


def test_it_is_checked_repaired_and_converted(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = (root / "train.toy").read_text()
    (root / "train.toy").write_text(f"{labels}{labels.split()[0]} red 1 2 3\n")
    with pytest.raises(SystemExit) as ended:
        cli.main(["check", "toy", "--fix", "fixed", "--jobs", "1"])
    assert ended.value.code == 2
    assert "line 13 has 3 corners" in capsys.readouterr().out
    assert len(DetectionDataModule("fixed").train_annotations.boxes) == 12
    (root / "train.toy").write_text(labels)
    for to in ("COCO", "VOC", "YOLO", "LabelMe"):
        cli.main(["convert-data", "toy", "--to", to, "--out", to.lower()])
        assert len(DetectionDataModule(to.lower(), to).train_annotations.boxes) == 12


def test_a_model_is_trained_and_evaluated_on_it(root: Path) -> None:
    Path("model.yaml").write_text(MODEL)
    settings = ["--data", "toy", "--data.num_workers", "0"]
    cli.main(["train", "--config", "model.yaml", *settings, "--name", "toy"])
    file = next(Path("runs").rglob("last.ckpt"))
    assert checkpoint.load(file).class_names == DetectionDataModule("toy").classes
    cli.main(["evaluate", "--checkpoint", str(file), *settings])
