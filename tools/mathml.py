"""Extension of Python-Markdown for the documentation: equations as MathML, which browsers draw without a script."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert
from markdown import Extension, Markdown
from markdown.postprocessors import Postprocessor

EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)  # as arithmatex leaves it


class MathML(Postprocessor):
    """Replace TeX by MathML."""

    def run(self, text: str) -> str:
        return EQUATION.sub(
            lambda match: convert(html.unescape(match[2]), display="block" if match[1] == "div" else "inline"), text
        )


class MathMLExtension(Extension):
    """Add ``MathML`` after the raw HTML of other extensions is in place."""

    def extendMarkdown(self, md: Markdown) -> None:
        md.postprocessors.register(MathML(md), "mathml", 25)


def makeExtension(**options: Any) -> MathMLExtension:
    """Return the extension, as Python-Markdown asks for it."""
    return MathMLExtension(**options)
