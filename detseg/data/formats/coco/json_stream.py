"""Long lists in JSON files, read piece by piece: the objects of all of a file at once would take six times its size."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TextIO

import orjson

WINDOW = 1 << 17  # characters that are read at a time: what they become stays in the caches of a processor

SPACE = re.compile(r"[ \t\n\r]*")
BETWEEN = re.compile(r"\}([ \t\n\r]*,)[ \t\n\r]*\{")  # two objects of a list
FOLLOWING = frozenset(" \t\n\r,:]}")  # what ends a value; behind a number the rest of it may follow: 1 of 1e5
TRIES = 50  # places to look at for the end of the last object in a window
DECODER = json.JSONDecoder()


def read_lists(file: Path, names: Collection[str], window: int = WINDOW) -> Iterator[tuple[str, list[Any]]]:
    """Give the lists of these names in the object that a JSON file holds, each in pieces, in the order of the file.

    The values are those of ``json.loads``, but for whole numbers beyond 64 bits, which become floats. Raises OSError,
    and ValueError or RecursionError where the file is broken, is not UTF-8 or no object, has a name twice, or something
    else than a list under one of ``names``.
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
    """A text of which a window is in memory, and the place that was read up to."""

    def __init__(self, stream: TextIO, window: int) -> None:
        self.stream, self.size = stream, window
        self.window, self.place = "", 0

    def more(self) -> bool:
        """Go on to the rest of the window and what follows; False at the end of the text."""
        # A value that is longer than the window is tried again with twice as much, not with one piece more.
        following = self.stream.read(max(self.size, len(self.window) - self.place))
        self.window, self.place = self.window[self.place :] + following, 0
        return bool(following)

    def ahead(self) -> str:
        """The next character that is no space; none at the end."""
        while True:
            self.place = SPACE.match(self.window, self.place).end()  # type: ignore[union-attr]
            if self.place < len(self.window):
                return self.window[self.place]
            if not self.more():
                return ""

    def take(self, characters: str) -> str:
        """Read one of ``characters``. Raises ValueError if something else follows."""
        found = self.ahead()
        if not found or found not in characters:
            raise ValueError(f"{found!r} instead of one of {characters}")
        self.place += 1
        return found

    def value(self) -> Any:
        """Read a value, whatever it is. Raises ValueError if it is broken."""
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
            while mark == "," and self.window is first:  # one by one what is left of the window
                values.append(self.value())
                mark = self.take(",]")
            yield values

    def _objects(self) -> list[Any]:
        """Read as many objects of a list as end in the window, or none where that is not clear."""
        if len(self.window) - self.place < self.size // 2 and not self.more():
            return []
        marks = BETWEEN.finditer(self.window, max(self.place, len(self.window) - self.size // 8))
        for tried, found in enumerate([*marks][: -TRIES - 1 : -1]):
            text = self.window[self.place : found.start() + 1]
            if tried and any(text.count(one) != text.count(other) for one, other in ("{}", "[]")):
                continue  # it is inside of an object
            try:
                values: list[Any] = orjson.loads(f"[{text}]")
            except ValueError:  # also for what others write and JSON does not have: NaN
                if tried:
                    return []
                continue
            self.place = found.end(1)
            return values
        return []
