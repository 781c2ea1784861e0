"""Charts and grids: values where the axis says, texts inside, nothing lost."""

import numpy as np
import pytest

from detseg.analysis.charts import COLOURS, Bars, Line, bar_chart, labelled_grid, line_chart


def middle(chart: np.ndarray, colour: int, column: int) -> float:
    """The height of a line's mark in some columns of a chart below its legend, in pixels from the top."""
    near = (np.abs(chart.astype(int) - COLOURS[colour]) < 8).all(axis=2)
    near[:60] = False
    return float(near[:, column - 2 : column + 3].nonzero()[0].mean())


def test_values_lie_where_the_axis_says() -> None:
    chart = line_chart("title", ["a", "b", "c"], [Line("one", [0.2, 0.4, 0.8])], "below", "beside", (600, 400))
    assert chart.shape == (400, 600, 3)
    width = 600 - 9 * 8 - 3 * 8
    heights = [middle(chart, 0, round(72 + width * (place + 0.5) / 3)) for place in range(3)]
    rules = np.flatnonzero((np.abs(chart[:, 80:90].astype(int) - 222) < 8).all(axis=(1, 2)))
    top, bottom = rules.min(), 400 - 9 * 8
    expected = [bottom - value / 0.8 * (bottom - top) for value in (0.2, 0.4, 0.8)]
    np.testing.assert_allclose(heights, expected, atol=2.5)


def test_a_grid_keeps_every_picture_and_its_pixels() -> None:
    pictures = [np.full((10, 10 + number, 3), 20 * number, np.uint8) for number in range(5)]
    sheet = labelled_grid("t", pictures, [f"a long text of number {n}" for n in range(5)], columns=3, side=40)
    assert sheet.shape[1] == 2 * 16 + 3 * 40 + 2 * 12
    for number in range(5):
        row, column = divmod(number, 3)
        y, x = 48 + row * (sheet.shape[0] - 64 + 12) // 2 + 20, 16 + column * 52 + 20
        assert sheet[y - 3 : y + 3, x - 3 : x + 3].tolist() == np.full((6, 6, 3), 20 * number).tolist()


def test_bars_are_as_high_as_the_logarithms_of_their_values() -> None:
    bars = [Bars("first", [0.1, 10.0]), Bars("second", [1.0, 0.0])]
    chart = bar_chart("title", ["here", "there"], bars, beside="seconds", size=(600, 400))
    first, second = ((chart[60:] == colour).all(axis=2) for colour in COLOURS[:2])  # below the legend
    heights = [int(part.any(axis=1).sum()) for part in (first[:, :300], first[:, 300:], second[:, :300])]
    assert heights[1] == pytest.approx(2 * heights[2], rel=0.03)  # two decades above the lowest, and one
    assert heights[0] <= 1
    assert not second[:, 330:].any()  # nothing has no bar
