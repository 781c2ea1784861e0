"""Progress without a terminal."""

from __future__ import annotations

import pytest

from detseg.progress import progress


def test_lines_of_the_log_tell_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seconds = iter([0, 5, 15, 16])  # at the start, and after each image
    monkeypatch.setattr("time.monotonic", lambda: next(seconds))
    with caplog.at_level("INFO"), progress(10, 40, "predict") as advance:
        for _ in range(3):
            advance()
    assert caplog.messages == ["predict: 12 of 40 images, 0.1 a second, 0:03:30 left"]
