"""The results of a comparison: a JSON file that grows run by run, and the paired differences between arms."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scipy.stats import t as student


class ResultsError(Exception):
    """A file of results that cannot be continued."""


class Interval(NamedTuple):
    """A mean of paired differences and its uncertainty."""

    mean: float
    standard_error: float
    low: float
    high: float


def paired_interval(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> Interval:
    """Estimate the mean of ``first`` minus ``second``, pair by pair, with Student's t interval; two pairs or more."""
    differences = [one - other for one, other in zip(first, second, strict=True)]
    mean = statistics.mean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    reach = float(student.ppf((1 + confidence) / 2, len(differences) - 1)) * error
    return Interval(mean, error, mean - reach, mean + reach)


class Results:
    """Runs by arm and seed in a JSON file, which is written after each of them.

    Raises ResultsError for a file that is no such file, or of other settings: its runs would not be comparable.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.settings = path, json.loads(json.dumps(settings))
        self.runs: dict[tuple[str, int], dict[str, float]] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            settings = dict(content["settings"])
            self.runs = {(run["arm"], run["seed"]): dict(run["metrics"]) for run in content["runs"]}
        except (ValueError, KeyError, TypeError) as error:
            raise ResultsError(f"{self.path}: is no file of results ({error!r}); delete it or name another") from error
        for name in sorted(self.settings.keys() | settings.keys()):
            before, now = settings.get(name), self.settings.get(name)
            if before != now:
                raise ResultsError(
                    f"{self.path}: its runs have {name} {before!r}, and now it is {now!r}: name another file"
                )

    def add(self, arm: str, seed: int, metrics: dict[str, float]) -> None:
        """Add a run and write the file, beside the old one first, so that none is lost."""
        self.runs[arm, seed] = metrics
        runs = [{"arm": arm, "seed": seed, "metrics": metrics} for (arm, seed), metrics in self.runs.items()]
        partial = self.path.with_name(f"{self.path.name}.part")
        partial.write_text(json.dumps({"settings": self.settings, "runs": runs}, indent=1), encoding="utf-8")
        os.replace(partial, self.path)

    def table(self, reference: str, metrics: Sequence[str], confidence: float = 0.95) -> str:
        """Format the mean of each arm and its difference to ``reference`` over the seeds that both have."""
        lines, arms = [], list(dict.fromkeys(name for name, _ in self.runs))
        width = max(map(len, arms), default=0)
        for arm in arms:
            seeds = [seed for name, seed in self.runs if name == arm and (reference, seed) in self.runs]
            for metric in metrics if seeds else ():
                own, others = ([self.runs[name, seed][metric] for seed in seeds] for name in (arm, reference))
                line = f"{arm:{width}} {metric:9} {statistics.mean(own):.4f}"
                if arm != reference and len(seeds) > 1:
                    mean, error, low, high = paired_interval(own, others, confidence)
                    line += f"  {mean:+.4f} +- {error:.4f}, {confidence:.0%} interval [{low:+.4f}, {high:+.4f}]"
                lines.append(f"{line}  of {len(seeds)} seeds")
        return "\n".join(lines)
