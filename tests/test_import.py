"""What an import brings with it, each in a fresh process."""

import subprocess
import sys

import pytest

import detseg


def loaded(statement: str) -> set[str]:
    """Names of the libraries that a statement loads."""
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def test_the_package_alone_loads_nothing() -> None:
    assert loaded("import detseg; detseg.__version__; dir(detseg)") & {"torch", "lightning", "numpy", "PIL"} == set()


def test_models_do_without_lightning() -> None:
    modules = loaded("from detseg import FasterRCNN; from detseg.models import FasterRCNN")
    assert "torch" in modules
    assert modules & {"lightning", "pytorch_lightning", "albumentations", "jsonargparse"} == set()


@pytest.mark.parametrize(
    ("command", "option", "explained"), [("train", "--help", "--trainer.KEY"), ("check", "-h", "--decode")]
)
def test_help_loads_no_library(command: str, option: str, explained: str) -> None:
    code = "from contextlib import suppress\nfrom detseg.cli import main\n"
    code += f"with suppress(SystemExit): main([{command!r}, {option!r}])\n"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    explanation, _, modules = result.stdout.rpartition("\n\n")
    assert explained in explanation
    assert "detseg.cli" in modules
    assert set(modules.split()) & {"torch", "lightning", "numpy", "jsonargparse"} == set()


def test_annotations_need_numpy_alone() -> None:
    modules = loaded("from detseg.data.annotations.detection import DetectionAnnotations")
    assert "numpy" in modules
    assert modules & {"torch", "lightning", "albumentations", "PIL"} == set()


def test_libraries_for_drawing_are_imported_on_the_first_drawing() -> None:
    assert loaded("import detseg.analysis.charts, detseg.check.page") & {"matplotlib", "jinja2"} == set()


@pytest.mark.parametrize("name", detseg.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(detseg, name) is not None
    assert name in dir(detseg)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="FasterRCN"):
        _ = detseg.FasterRCN  # type: ignore[attr-defined]
