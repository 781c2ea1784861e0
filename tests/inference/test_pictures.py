"""Image files of results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detseg.inference import DetectionResult
from detseg.inference.pictures import PictureWriter


def test_a_result_is_kept_whose_image_cannot_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "slide.png"
    Image.new("RGB", (20, 10)).save(file)
    result = DetectionResult(
        image_size=(10, 20),
        class_names=("cell",),
        path=file,
        boxes=np.array([[1, 1, 5, 5]], np.float32),
        labels=np.zeros(1, np.int64),
        scores=np.ones(1, np.float32),
    )
    writer = PictureWriter(tmp_path / "out", {str(file): "slide.png"}, {str(file)})
    (tmp_path / "out").mkdir()
    assert writer.save(result) == {**result.to_json(), "picture": "slide.png"}
    (tmp_path / "out" / "slide.png").unlink()
    monkeypatch.setenv("DETSEG_MAX_IMAGE_PIXELS", "100")  # read tile by tile before
    assert writer.save(result) == result.to_json()
    assert not (tmp_path / "out" / "slide.png").exists()
