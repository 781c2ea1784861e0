"""Parts of detectors: what they have in common, and the ranges of their arguments."""

from __future__ import annotations

from typing import Any

from torch import nn

from detseg.configurable import Configurable


class Part(nn.Module, Configurable):
    """A module whose layers depend on the modules beside it, such as a head on the backbone's channels.

    The constructor takes what a user chooses. ``build`` takes what follows from the other modules; the detector calls
    it. It creates the layers once: a part that two detectors share must fit both.
    """

    built_for: dict[str, Any] | None = None

    def build_once(self, **properties: Any) -> bool:
        """Record what the layers depend on; return true if they are still to be created.

        Raises ValueError, naming both, if the layers exist and depend on other ``properties``.
        """
        if self.built_for is None:
            self.built_for = properties
            return True
        if self.built_for != properties:
            existing, wanted = (", ".join(f"{k} {v}" for k, v in each.items()) for each in (self.built_for, properties))
            raise ValueError(f"this {type(self).__name__} has {existing}, and the detector needs {wanted}")
        return False


def check_ranges(counts: dict[str, int], fractions: dict[str, float]) -> None:
    """Raise ValueError, naming it, for a count below 1 and for a fraction or an IoU outside of [0, 1]."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}, and must be at least 1")
    for name, fraction in fractions.items():
        if not 0 <= fraction <= 1:
            raise ValueError(f"{name} is {fraction}, and must be between 0 and 1")
