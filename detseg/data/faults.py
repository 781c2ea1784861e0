"""What can be wrong with a data set: readers stop at the first fault, a check of all of it gathers them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from detseg.errors import DataError

log = logging.getLogger(__name__)


class Fault(NamedTuple):
    """One thing that is wrong."""

    kind: str  # by which faults are listed together
    file: str  # the label file or image that has it
    about: str  # which entry of the file: "object 3", "line 7"; empty for the whole of it
    text: str  # what is wrong with it

    def __str__(self) -> str:
        return f"{self.file}: {self.about} {self.text}" if self.about else f"{self.file}: {self.text}"


class Report:
    """What readers do about faults: an entry that cannot be used ends the reading."""

    gathers = False  # whether reading goes on without the entry

    def error(self, kind: str, file: object, about: str, text: str) -> None:
        """Raise DataError for an entry that cannot be used."""
        raise DataError(str(Fault(kind, str(file), about, text)))

    def left_out(self, faults: Sequence[Fault], summary: str) -> None:
        """Log in one line what is left out without harm, with the first few."""
        if faults:
            more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
            log.warning(
                "%s: %s%s", summary, "; ".join(f"{fault.file} {fault.about}".strip() for fault in faults[:5]), more
            )


class Gathered(Report):
    """Keeps every fault, so that the reading goes on without the entry that has it."""

    gathers = True

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def error(self, kind: str, file: object, about: str, text: str) -> None:
        """Keep the fault."""
        self.faults.append(Fault(kind, str(file), about, text))

    def left_out(self, faults: Sequence[Fault], summary: str) -> None:
        """Keep the faults."""
        self.faults.extend(faults)
