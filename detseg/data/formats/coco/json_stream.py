"""Read long lists in JSON files in pieces: all objects of a file at once would take six times its size."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TextIO

import orjson

WINDOW = 1 << 17  # characters read at a time: their values stay in the caches of a processor

SPACE = re.compile(r"[ \t\n\r]*")
BETWEEN = re.compile(r"\}([ \t\n\r]*,)[ \t\n\r]*\{")  # two objects of a list
FOLLOWING = frozenset(" \t\n\r,:]}")  # ends of a value; a number may go on in the next window: 1 of 1e5
TRIES = 50  # candidates for the end of the last object in a window
DECODER = json.JSONDecoder()


def read_lists(file: Path, names: Collection[str], window: int = WINDOW) -> Iterator[tuple[str, list[Any]]]:
    """Yield the lists of these names in the object of a JSON file, each in pieces, in the order of the file.

    The values are those of ``json.loads``, except that integers beyond 64 bits become floats. Raises OSError, and
    ValueError or RecursionError if the file is broken, not UTF-8, no object, has a name twice, or has no list under one
    of ``names``.
    """
    with open(file, encoding="utf-8", errors="surrogatepass", newline="") as stream:
        text = _Text(stream, window)
        text.take("{")
        seen: set[Any] = set()
        mark = "}" if text.ahead() == "}" and text.take("}") else ","
        while mark == ",":
            if text.ahead() != '"' or (name := text.value()) in seen:
                raise ValueError("no name, or one that comes twice")
            seen.add(name)
            text.take(":")
            if name in names:
                yield from ((name, values) for values in text.elements())
            else:
                text.value()
            mark = text.take(",}")
        if text.ahead():
            raise ValueError("more than one value")


class _Text:
    """A window of a text in memory, and the position in it."""

    def __init__(self, stream: TextIO, window: int) -> None:
        self.stream, self.size = stream, window
        self.window, self.place = "", 0

    def more(self) -> bool:
        """Move the window forward; False at the end of the text."""
        # A value that is longer than the window is tried again with twice as much, not with one piece more.
        following = self.stream.read(max(self.size, len(self.window) - self.place))
        self.window, self.place = self.window[self.place :] + following, 0
        return bool(following)

    def ahead(self) -> str:
        """Return the next character that is no space; empty at the end."""
        while True:
            self.place = SPACE.match(self.window, self.place).end()  # type: ignore[union-attr]
            if self.place < len(self.window):
                return self.window[self.place]
            if not self.more():
                return ""

    def take(self, characters: str) -> str:
        """Read one of ``characters``. Raises ValueError if something else follows."""
        character = self.ahead()
        if not character or character not in characters:
            raise ValueError(f"{character!r} instead of one of {characters}")
        self.place += 1
        return character

    def value(self) -> Any:
        """Read any value. Raises ValueError if it is broken."""
        self.ahead()
        while True:
            try:
                value, end = DECODER.raw_decode(self.window, self.place)
            except ValueError:
                if not self.more():
                    raise
                continue
            if self.window[end : end + 1] in FOLLOWING or not self.more():
                self.place = end
                return value

    def elements(self) -> Iterator[list[Any]]:
        """Read a list in pieces."""
        self.take("[")
        if self.ahead() == "]":
            self.take("]")
            yield []
            return
        mark = ","
        while mark == ",":
            if values := self._objects():
                yield values
                continue
            first = self.window
            while mark == "," and self.window is first:  # the rest of the window, one by one
                values.append(self.value())
                mark = self.take(",]")
            yield values

    def _objects(self) -> list[Any]:
        """Read the objects of a list that end in the window, or none where that is not clear."""
        if len(self.window) - self.place < self.size // 2 and not self.more():
            return []
        marks = BETWEEN.finditer(self.window, max(self.place, len(self.window) - self.size // 8))
        for tried, mark in enumerate([*marks][: -TRIES - 1 : -1]):
            text = self.window[self.place : mark.start() + 1]
            if tried and any(text.count(one) != text.count(other) for one, other in ("{}", "[]")):
                continue  # inside of an object
            try:
                values: list[Any] = orjson.loads(f"[{text}]")
            except ValueError:  # also for NaN, which is not JSON
                if tried:
                    return []
                continue
            self.place = mark.end(1)
            return values
        return []
