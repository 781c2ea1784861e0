"""The comparison with torchvision: the arms are what they say, and the file of results keeps runs comparable."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import roi_align

from detseg.data import Resize
from detseg.data.loading.collate import collate
from detseg.modules import RPN
from detseg.modules.rpn import Predictions
from detseg.modules.target_assignment import uniform
from detseg.structures import Instances, Sample

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from comparison.arms import Data, HalfPixelRoIAlign, ImageRPN, UnbucketedData, polygon_box_mask
from comparison.results import Results, ResultsError, paired_interval

SETTINGS = {"epochs": 4, "seeds": [0, 1]}


def test_interval_is_that_of_students_paper() -> None:
    """Hours of sleep that ten patients gained by two drugs (Student 1908, The probable error of a mean)."""
    first = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    second = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    assert paired_interval(first, second) == pytest.approx((1.58, 0.3890, 0.7001, 2.4599), abs=1e-4)


def test_results_continue_and_compare_the_same_seeds(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json", SETTINGS)
    for arm, seed, ap in (("ours", 0, 0.5), ("theirs", 0, 0.4), ("ours", 1, 0.7), ("theirs", 1, 0.5), ("ours", 2, 0.9)):
        results.add(arm, seed, {"AP": ap})
    again = Results(tmp_path / "results.json", SETTINGS)
    assert again.runs == results.runs
    # Differences 0.1 and 0.2: their error is 0.05, and Student's quantile of one degree of freedom 12.706.
    line = again.table("theirs", ["AP"]).splitlines()[0]
    assert line.split(maxsplit=2) == [
        "ours", "AP", "0.6000  +0.1500 +- 0.0500, 95% interval [-0.4853, +0.7853]  of 2 seeds",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"settings": {"epochs": 4, "seeds": [0', "is no file of results"),
        ('{"settings": {"epochs": 4, "seeds": [0, 1]}, "runs": [{"arm": "ours"}]}', "is no file of results"),
        (json.dumps({"settings": SETTINGS | {"epochs": 5}, "runs": []}), "its runs have epochs 5, and now it is 4"),
        (json.dumps({"settings": {"epochs": 4}, "runs": []}), "its runs have seeds None, and now it is \\[0, 1\\]"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "results.json"
    file.write_text(content)
    with pytest.raises(ResultsError, match=message):
        Results(file, SETTINGS)
    assert file.read_text() == content


def test_half_pixel_is_torchvisions_aligned() -> None:
    generator = torch.Generator().manual_seed(0)
    feature = torch.rand(2, 3, 24, 32, generator=generator)
    corner = 40 * torch.rand(2, 5, 2, generator=generator)
    boxes = torch.cat([corner, corner + 10 + 40 * torch.rand(2, 5, 2, generator=generator)], dim=2)
    rois = torch.cat([torch.arange(2.0).repeat_interleave(5)[:, None], boxes.view(-1, 4)], dim=1)
    expected = roi_align(feature, rois, 7, 1 / 4, sampling_ratio=2, aligned=True)
    found = HalfPixelRoIAlign()([feature], Instances(boxes, torch.ones(2, 5, dtype=torch.bool)), [4], 7)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_no_negatives_are_drawn_in_the_padding() -> None:
    anchors = torch.tensor([[x - 8.0, -8, x + 8, 8] for x in range(0, 64, 4)])  # 16 centres
    logits = torch.zeros(1, 16)
    for rpn, last in ((RPN(), 60), (ImageRPN(), 28)):
        rpn.propose(Predictions(logits, torch.zeros(1, 16, 4), anchors, [16]), torch.tensor([[32, 32]]), training=True)
        positive = torch.zeros(1, 16, dtype=torch.bool)
        indices, valid = rpn.sampler(positive, ~positive, uniform(torch.tensor([7]), torch.arange(16), 0))
        assert 4 * int(indices[valid].max()) == last


def test_unbucketed_data_is_padded_as_torchvision_pads() -> None:
    image = torch.zeros(3, 128, 150, dtype=torch.uint8)
    sample = Sample(image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 0, (128, 150))
    for cls, width in ((Data, 192), (UnbucketedData, 160)):
        shapes = cls("nowhere", transforms=[Resize(128, 256)]).train_pad_shapes
        assert collate([sample], shapes).images.shape[2:] == (128, width)


def test_polygon_is_drawn_exactly() -> None:
    """The left part of a box beside a slanted line: a cell that the line halves is covered by half."""
    mask = polygon_box_mask([np.array([10.0, 20, 14, 20, 18, 36, 10, 36])], np.array([10.0, 20, 18, 36]), size=4)
    expected = 255 * np.array([[1, 1, 0.25, 0], [1, 1, 0.75, 0], [1, 1, 1, 0.25], [1, 1, 1, 0.75]])
    assert np.abs(mask - expected).max() <= 255 * 0.06  # the rule of COCO rounds to a pixel of an eighth of a cell
