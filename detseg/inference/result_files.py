"""Result files with one JSON line per image, written as it is computed; they survive a kill at any moment.

A run appends to ``predictions.jsonl.part0``; the file takes its name when it is complete. Several processes write parts
with numbers of their own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from detseg.errors import ConfigError, DataError

RESULTS, SETTINGS = "predictions.jsonl", "predictions.settings.json"
SHARD_FILE = re.compile(r"predictions-(\d+)-of-(\d+)\.jsonl(\.part\d+)?")
BLOCK = 1 << 16  # bytes

Entry = dict[str, Any]  # of an image, by the keys of its JSON line


class Shard(NamedTuple):
    """A fixed part of all images: those whose name hashes to it. The default is all of them."""

    number: int = 1  # from 1
    total: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse "2/8", the second of eight. Raises ConfigError for anything else."""
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(f"shard {text}: must be one of several equal parts, such as 1/8 to 8/8")
        return cls(int(match[1]), int(match[2]))

    def holds(self, name: str) -> bool:
        """Check whether an image belongs to this shard."""
        digest = hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.total == self.number - 1

    def split(self, rank: int, ranks: int) -> Shard:
        """Return the part of this shard that a process computes."""
        return Shard(self.number + rank * self.total, self.total * ranks)

    @property
    def file(self) -> str:
        """Name of its file of results."""
        return RESULTS if self.total == 1 else f"predictions-{self.number}-of-{self.total}.jsonl"


@dataclass
class Summary:
    """Counts of results."""

    images: int = 0
    failed: int = 0
    objects: int = 0
    fractions: Counter[str] = field(default_factory=Counter)  # sums over the images, by class

    def add(self, entry: Entry) -> None:
        """Count the entry of an image."""
        self.images += 1
        self.failed += "error" in entry
        self.objects += len(entry.get("boxes", ()))
        self.fractions.update(entry.get("class_fractions", {}))


class ResultsWriter:
    """Appends the entries of images to a part of a file of results."""

    def __init__(self, file: Path, part: int = 0) -> None:
        self.path = file.with_name(f"{file.name}.part{part}")
        if self.path.exists():
            cut_unfinished_line(self.path)
        self._file = self.path.open("ab", buffering=0)  # a line is there once it is written, also after a kill

    def append(self, entry: Entry) -> None:
        """Write a line."""
        line = memoryview(json.dumps(entry).encode() + b"\n")
        while line:
            line = line[self._file.write(line) :]

    def close(self) -> None:
        """Close the part."""
        self._file.close()


def cut_unfinished_line(path: Path) -> None:
    """Cut off the end of a file after its last line break."""
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - BLOCK)
            file.seek(start)
            last = file.read(end - start).rfind(b"\n")
            if last >= 0:
                end = start + last + 1
                break
            end = start
        file.truncate(end)


def read_lines(path: Path) -> Iterator[tuple[bytes, Entry]]:
    """Read the complete lines of a file of results, each as it is and parsed. Raises DataError for a broken one."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                entry = json.loads(line)
                if not isinstance(entry["file"], str):
                    raise TypeError("its file is not a string")
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(f"{path}: line {number} is not the result of an image ({error}); delete it") from None
            yield line, entry


def parts_of(file: Path) -> list[Path]:
    """List the parts of a file of results that is not complete."""
    return sorted(file.parent.glob(f"{file.name}.part*"))


def finished_images(file: Path) -> set[str]:
    """Read the names of the images that have a line in a file of results or in its parts."""
    files = [path for path in (file, *parts_of(file)) if path.exists()]
    return {entry["file"] for path in files for _, entry in read_lines(path)}


def start(file: Path, resume: bool, settings: Mapping[str, Any]) -> None:
    """Prepare a folder for a run that writes ``file``; without ``resume`` it replaces a complete file.

    Raises ConfigError for results there that would be lost, or that another model or other settings gave.
    """
    parts = parts_of(file)
    if not resume and (count := sum(1 for part in parts for _ in read_lines(part))):
        raise ConfigError(
            f"{file}: {count} images of an interrupted run are there; continue it with `resume=true`, or delete "
            f"{', '.join(part.name for part in parts)}"
        )
    kept = {*file.parent.glob("predictions*.jsonl*")} - ({file, *parts} if not resume else set())
    path = file.with_name(SETTINGS)
    if kept:
        before = read_settings(file.parent)
        changed = [key for key in settings if before.get(key) != settings[key]]
        if changed:
            raise ConfigError(
                f"{file.parent}: holds results of other settings ({', '.join(changed)}); name another folder, or use "
                f"those in {SETTINGS}"
            )
    if not resume:
        file.unlink(missing_ok=True)  # first: a run that is continued must not take these results for its own
    _write(path, json.dumps(settings, indent=2) + "\n")


def read_settings(folder: Path) -> dict[str, Any]:
    """Read the settings of the run that wrote results to a folder. Raises DataError if they are not there."""
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise TypeError("it holds no settings")
    except (OSError, ValueError, TypeError) as error:
        message = getattr(error, "strerror", None) or error
        raise DataError(
            f"{folder / SETTINGS}: cannot be read: {message}; it tells the model of the results beside it: restore it, "
            "or predict into another folder"
        ) from None
    return settings


def finish(file: Path) -> Summary:
    """Give a complete file of results its name, joined from its parts; of an image in several, the first counts."""
    files = [*([file] if file.exists() else []), *parts_of(file)]
    return join(files, file)


def join(files: Iterable[Path], target: Path) -> Summary:
    """Join files of results, then delete them; of several lines of an image, the first counts."""
    summary, names, files = Summary(), set(), [*files]
    temporary = target.with_name(f"{target.name}.tmp")
    with temporary.open("wb") as out:
        for file in files:
            for line, entry in read_lines(file):
                if entry["file"] not in names:
                    names.add(entry["file"])
                    out.write(line)
                    summary.add(entry)
    temporary.replace(target)
    for file in sorted(files, key=lambda one: one.stat().st_size > 0):  # empty ones first: the last one has lines
        if file != target:
            file.unlink()
    return summary


def merge_shards(folder: Path) -> Summary:
    """Join the shards in a folder to one file of results, also after a merge that was stopped at any moment.

    Raises DataError, with counts, for shards that are missing, not complete, or of another division, and for images in
    several of them.
    """
    shards: dict[int, Path] = {}
    unfinished, counts = set(), set()
    for path in sorted(folder.glob("predictions-*.jsonl*")):
        if match := SHARD_FILE.fullmatch(path.name):
            number = int(match[1])
            counts.add(int(match[2]))
            if match[3]:
                unfinished.add(number)
            else:
                shards[number] = path
    if not counts:
        raise DataError(f"{folder}: holds no shards of results, such as {Shard(1, 2).file}")
    if len(counts) > 1:
        divisions = " and ".join(map(str, sorted(counts)))
        raise DataError(f"{folder}: holds shards of divisions into {divisions}; keep those of one")
    (count,) = counts
    missing = {*range(1, count + 1)} - {*shards} - unfinished
    results = folder / RESULTS
    if missing and not unfinished and _holds(results, shards.values()):
        return join([results, *shards.values()], results)  # a merge was stopped while it deleted the shards
    problems = [f"{len(unfinished)} of {count} shards are not complete ({_numbers(unfinished)})"] if unfinished else []
    if missing:
        problems.append(f"{len(missing)} of {count} shards are missing ({_numbers(missing)})")
    if problems:
        raise DataError(f"{folder}: {', '.join(problems)}; run `detseg predict` with them and `--resume true`")
    _check_overlaps(folder, {Shard(number, count): path for number, path in shards.items()})
    return join(shards.values(), results)


def _holds(results: Path, shards: Iterable[Path]) -> bool:
    """Check whether a file of results has every line of the shards, and these have any."""
    if not results.exists():
        return False
    merged, lines = (
        {hashlib.sha256(line).digest() for file in files for line, _ in read_lines(file)}
        for files in ([results], shards)
    )
    return bool(lines) and lines <= merged


def _check_overlaps(folder: Path, shards: Mapping[Shard, Path]) -> None:
    """Raise DataError for images that lie in several shards, or in another than their name says."""
    names: Counter[str] = Counter()
    strangers = 0
    for shard, path in shards.items():
        for _, entry in read_lines(path):
            names[entry["file"]] += 1
            strangers += not shard.holds(entry["file"])
    repeated = sum(count > 1 for count in names.values())
    if repeated or strangers:
        raise DataError(
            f"{folder}: {repeated} images occur several times and {strangers} in a shard that they do not belong to; "
            "predict the shards again, each with the same images and its own `--shard`"
        )


def _numbers(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def _write(path: Path, text: str) -> None:
    """Write a file as a whole, so that other processes read the old one or the new one."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
    except OSError:
        temporary.unlink()  # whose name no later run would use again
        raise
    temporary.replace(path)
