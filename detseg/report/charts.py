"""Line charts as SVG elements for a page, in the colour of its text."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from itertools import cycle

from markupsafe import Markup

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # of Okabe and Ito
STYLES = ("-", "--", "-.", ":")
MAX_NAMED = 10  # lines of a legend
Line = tuple[Sequence[float], Sequence[float]]


def line_chart(
    title: str, lines: Mapping[str, Line], x_label: str, y_label: str, shares: bool = False, log: bool = False
) -> Markup:
    """Draw lines by name as an SVG; ``shares`` have axes from 0 to 1. Beyond ``MAX_NAMED``, a legend names the last."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    names = [*lines]
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 9}):
        figure = Figure(figsize=(4.8, 3.2), layout="constrained")
        axes = figure.add_subplot(xlabel=x_label, ylabel=y_label)
        axes.set_title(_plain(title), fontsize=10)
        styles = [(color, style) for style in STYLES for color in COLORS]
        for name, (color, style) in zip(names, cycle(styles), strict=False):
            is_last = name == names[-1]
            faint = len(names) > MAX_NAMED and not is_last
            axes.plot(*lines[name], style, color="0.6" if faint else color, lw=0.8 if faint else 1.6,
                      label=None if faint else _plain(name))  # fmt: skip
        if shares:
            axes.set(xlim=(0, 1), ylim=(0, 1.02))
        if log:
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend(fontsize=8, framealpha=0)
        figure.patch.set_alpha(0)
        axes.patch.set_alpha(0)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = re.sub("<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = text.replace("#000000", "currentColor").replace("fill: black", "fill: currentColor")
    return Markup(text.replace("<svg ", f'<svg role="img" class="chart" aria-label="{Markup.escape(title)}" ', 1))


def _plain(text: str) -> str:
    """A text that matplotlib does not take for mathematics."""
    return text.replace("$", r"\$")
