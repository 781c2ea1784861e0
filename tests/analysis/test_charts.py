"""Charts and grids: values where the axis says, texts inside, nothing lost."""

import numpy as np
from PIL import ImageColor

from detseg.analysis.charts import COLORS, Line, labelled_grid, line_chart


def pixels(chart: np.ndarray, color: str) -> np.ndarray:
    """Where a chart has a colour, apart from smoothed edges."""
    return (np.abs(chart.astype(int) - ImageColor.getrgb(color)) < 8).all(axis=2)


def test_values_are_as_high_as_the_axis_says() -> None:
    spread = [0.05, 0.05, 0.1]
    line = Line("one", [0.2, 0.4, 0.8], spread)
    chart = line_chart("title", ["a", "b", "c"], [line, Line("two", [0.6] * 3, dashed=True)], "x", "y", (600, 400))
    assert chart.shape == (400, 600, 3)
    assert chart.dtype == np.uint8
    first, second = (pixels(chart, color) for color in COLORS[:2])
    first[:, :150] &= np.arange(400)[:, None] > 200  # without the legend
    axis = np.flatnonzero((chart[:, 300] < 60).all(axis=1)).max()
    columns = np.flatnonzero(first.any(axis=0))
    left, right = columns.min() + 4, columns.max() - 4  # middles of the outer marks
    bars = [np.flatnonzero(first[:, column]) for column in (left, (left + right) // 2, right)]
    per_unit = (axis - np.median(np.flatnonzero(second[:, left + 40 : right].any(axis=1)))) / 0.6
    heights = [(axis - rows.max(), axis - rows.min()) for rows in bars]
    expected = [
        ((value - above) * per_unit, (value + above) * per_unit)
        for value, above in zip(line.values, spread, strict=True)
    ]
    np.testing.assert_allclose(heights, expected, atol=3)


def test_a_grid_keeps_every_picture_and_its_pixels() -> None:
    pictures = [np.full((10, 10 + number, 3), 20 * number, np.uint8) for number in range(5)]
    sheet = labelled_grid("t", pictures, [f"a long text of number {n}" for n in range(5)], columns=3, side=40)
    assert sheet.shape[1] == 2 * 16 + 3 * 40 + 2 * 12
    for number in range(5):
        row, column = divmod(number, 3)
        y, x = 48 + row * (sheet.shape[0] - 64 + 12) // 2 + 20, 16 + column * 52 + 20
        assert sheet[y - 3 : y + 3, x - 3 : x + 3].tolist() == np.full((6, 6, 3), 20 * number).tolist()


def test_a_name_may_look_like_a_formula() -> None:
    assert line_chart("$x$ of $\\frac$", ["$a$"], [Line("one", [0.5])], "x", "y", (300, 200)).shape == (200, 300, 3)
