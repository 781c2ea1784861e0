"""The learning rate over a training, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from detseg.tasks import ScheduleConfig


def test_warmup_rises_in_a_line_from_a_thousandth() -> None:
    factor = ScheduleConfig("constant").factor(100, (), 1000)
    assert [factor(step) for step in (0, 50, 100, 999)] == pytest.approx([0.001, 0.5005, 1.0, 1.0])


def test_without_warmup_the_rate_is_whole_from_the_first_step() -> None:
    assert ScheduleConfig("constant").factor(0, (), 1000)(0) == 1


def test_each_milestone_takes_nine_tenths() -> None:
    factor = ScheduleConfig("step").factor(0, (80, 110), 120)
    assert [factor(step) for step in (79, 80, 109, 110, 119)] == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])


def test_cosine_falls_to_zero() -> None:
    factor = ScheduleConfig("cosine").factor(0, (), 120)
    assert [factor(step) for step in (0, 40, 60, 120, 130)] == pytest.approx([1, 0.75, 0.5, 0, 0], abs=1e-12)


def test_warmup_and_milestones_multiply() -> None:
    assert ScheduleConfig("step").factor(100, (20,), 200)(50) == pytest.approx(0.1 * 0.5005)
