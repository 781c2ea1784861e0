"""Imports go only down: each part of the package knows those below it, and no part knows those above or beside it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import detseg

PACKAGE = Path(detseg.__file__).parent

GROUND = {
    "compat",
    "constants",
    "errors",
    "folders",
    "plural",
    "configurable",
    "preprocessing",
    "resizing",
    "structures",
    "weights",
}
BELOW: dict[str, set[str]] = {
    "compat": set(),
    "constants": set(),
    "errors": set(),
    "structures": {"constants"},
    "preprocessing": set(),
    "resizing": {"preprocessing"},
    "plural": set(),
    "progress": set(),
    "draw": set(),
    "folders": {"errors"},
    "configurable": {"errors"},
    "weights": {"compat", "errors", "configurable"},
    "ops": GROUND,
    "kernels": GROUND | {"ops"},
    "modules": GROUND | {"ops", "kernels"},
    "models": GROUND | {"ops", "modules"},
    "data": GROUND | {"ops", "draw"},
    "metrics": GROUND | {"ops"},
    "proposals": GROUND | {"data.annotations"},
    "check": GROUND | {"ops", "modules", "data", "draw"},
    "tasks": GROUND | {"ops", "modules", "models", "data", "metrics", "proposals", "draw", "progress"},
    "inference": GROUND | {"ops", "modules", "models", "data", "proposals", "draw", "checkpoint", "model_zoo"},
    "runtime": GROUND | {"ops", "inference"},
    "export": GROUND | {"ops", "kernels", "modules", "models", "model_zoo", "data", "draw", "metrics", "runtime"},
    "callbacks": GROUND | {"ops", "metrics", "tasks", "draw"},
    "report": GROUND | {"ops", "modules", "data", "metrics", "draw", "check"},
    "model_zoo": GROUND | {"modules", "models", "data"},
    "checkpoint": GROUND | {"models", "data", "tasks"},
    "analysis": GROUND | {"ops", "modules", "models", "draw"},
    "cli": GROUND
    | {"ops", "modules", "models", "data", "metrics", "proposals", "draw", "progress", "tasks", "inference"}
    | {"callbacks", "checkpoint", "analysis", "check", "report", "export", "model_zoo", "runtime"},
    "__main__": {"cli"},
}
"""What each part may import, besides itself."""

ONLY: dict[str, tuple[str, ...]] = {
    "lightning": ("tasks/", "callbacks/", "cli/", "data/modules/"),
    "pytorch_lightning": (),  # the other name of lightning: two names give two classes of everything
    "albumentations": ("data/transforms/",),
    "matplotlib": ("analysis/", "report/"),
    "jinja2": ("check/",),
    "huggingface_hub": ("weights/hub.py",),
    "onnx": ("export/",),
    "onnxscript": ("export/",),
    "onnxruntime": ("export/int8.py", "runtime/"),
    "openvino": ("export/", "runtime/"),
    "av": ("inference/video.py",),
    "trackers": ("inference/video.py",),
    "tifffile": ("inference/regions.py",),
    "litserve": ("inference/serving.py", "cli/serve.py"),
    "faster_coco_eval": ("metrics/", "data/annotations/masks.py"),
}
"""Where some libraries may be imported, and nowhere else."""


def imported(path: Path, package: Path) -> Iterator[str]:
    """The full names of everything that a file imports, at its top or inside of its functions."""
    here = ("detseg", *path.relative_to(package).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = here[: len(here) + 1 - node.level] if node.level else ()
            module = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{module}.{name.name}" for name in node.names)


def violations(package: Path) -> list[str]:
    """Every import that goes up, sideways, or brings in a library where it does not belong."""
    found = []
    for path in sorted(package.rglob("*.py")):
        file = path.relative_to(package)
        part = file.parts[0].removesuffix(".py")
        if part == "__init__":  # offers names of all parts, and imports none until it is asked
            continue
        if part not in BELOW:
            found.append(f"{file}: no floor is known for {part}")
            continue
        for name in imported(path, package):
            if not allowed(part, file.as_posix(), name):
                found.append(f"{file}: {name}")
    return found


def allowed(part: str, file: str, name: str) -> bool:
    library, _, inner = name.partition(".")
    if library == "detseg":
        return not inner or any(f"{inner}.".startswith(f"{below}.") for below in BELOW[part] | {part})
    return library not in ONLY or file.startswith(ONLY[library])


def test_the_floors_hold() -> None:
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "line", "name"),
    [
        ("ops/boxes.py", "from detseg.modules.rpn import RPN", "detseg.modules.rpn.RPN"),
        ("ops/boxes.py", "from ..modules import rpn", "detseg.modules.rpn"),
        ("ops/boxes.py", "from detseg.kernels import triton_nms", "detseg.kernels.triton_nms"),
        ("structures.py", "from .ops import boxes", "detseg.ops.boxes"),
        ("structures.py", "import detseg.ops.boxes", "detseg.ops.boxes"),
        ("modules/backbones/resnet.py", "from ...models import FasterRCNN", "detseg.models.FasterRCNN"),
        ("models/faster_rcnn.py", "from detseg.data import COCO", "detseg.data.COCO"),
        ("data/modules/detection.py", "from detseg.models import FasterRCNN", "detseg.models.FasterRCNN"),
        ("metrics/coco.py", "from detseg.models import FasterRCNN", "detseg.models.FasterRCNN"),
        ("metrics/coco.py", "from detseg.data import COCO", "detseg.data.COCO"),
        ("proposals/making.py", "from detseg.models import FasterRCNN", "detseg.models.FasterRCNN"),
        ("proposals/making.py", "from detseg.data import COCO", "detseg.data.COCO"),
        ("data/modules/detection.py", "from detseg.proposals.grid import grid", "detseg.proposals.grid.grid"),
        ("tasks/detection.py", "def f():\n    from detseg.cli import main", "detseg.cli.main"),
        ("models/faster_rcnn.py", "import lightning.pytorch as pl", "lightning.pytorch"),
        ("data/annotations/detection.py", "from lightning import LightningDataModule", "lightning.LightningDataModule"),
        ("tasks/detection.py", "from pytorch_lightning import Trainer", "pytorch_lightning.Trainer"),
        ("data/modules/base.py", "import albumentations", "albumentations"),
        ("ops/boxes.py", "from detseg import models", "detseg.models"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, file: str, line: str, name: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line)
    assert violations(tmp_path) == [f"{file}: {name}"]


def test_right_imports_pass(tmp_path: Path) -> None:
    for file, lines in {
        "__init__.py": "from detseg.models import FasterRCNN",
        "metrics/voc.py": "from detseg.ops import boxes\nfrom .detections import Detections",
        "modules/backbones/resnet.py": "from ...ops import boxes\nfrom . import backbone\nimport torch",
        "data/modules/base.py": "from lightning.pytorch import LightningDataModule",
        "cli/main.py": "import detseg\nfrom detseg.tasks import Detection\nimport lightning",
    }.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(lines)
    assert violations(tmp_path) == []
    (tmp_path / "extra.py").write_text("")
    assert violations(tmp_path) == ["extra.py: no floor is known for extra"]
