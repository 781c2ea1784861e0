"""Detection of the format of a folder among ``FORMATS``."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from detseg.data.annotations.masks import MaskReading
from detseg.data.formats import FORMATS
from detseg.data.formats.base import NO_NAMES, AmbiguousFormatError, DatasetFormat, DatasetSource, Task
from detseg.data.formats.coco.detection import CocoFiles
from detseg.data.formats.coco.layout import is_coco
from detseg.data.formats.layout import Tree
from detseg.data.formats.near_misses import near_misses
from detseg.data.formats.yolo_settings import is_yolo_settings, read_settings
from detseg.errors import ConfigError, DataError

log = logging.getLogger(__name__)

AUTO = "auto"
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
TASKS: tuple[Task, ...] = ("detection", "semantic_segmentation")  # of which ``detect_any`` takes the first


def find_formats(format: str | DatasetFormat, *tasks: Task) -> list[DatasetFormat]:
    """Return the formats of any of the tasks: all for "auto", else those of this name. Raises ConfigError for none."""
    known = [one for one in FORMATS if set(tasks) & set(one.tasks)]
    if isinstance(format, DatasetFormat):
        chosen = [format] if set(tasks) & set(format.tasks) else []
    else:
        chosen = known if format == AUTO else [one for one in known if one.name.lower() == format.lower()]
    if not chosen:
        name = format if isinstance(format, str) else type(format).__name__
        names = dict.fromkeys(one.name for one in known)
        raise ConfigError(f"`format={name!r}`: there is {', '.join([AUTO, *names])} for {' and '.join(tasks)}")
    return chosen


def find_folder(path: Path) -> Path:
    """Return the folder of a data set or of YOLO's data.yaml, or a file of COCO, which is one by itself.

    Raises DataError with the path to give instead.
    """
    if path.is_dir() or (path.suffix.lower() == ".json" and path.is_file() and is_coco(path)):
        return path
    if not path.is_file():
        raise DataError(f"{path}: no such folder; give the folder of your data")
    folder = path.parent
    if is_yolo_settings(path):
        stated = folder / str(read_settings(path).get("path") or ".")
        return stated if stated.is_dir() and not Tree(folder).images else folder
    if path.suffix.lower() in ARCHIVES:
        raise DataError(f"{path}: is an archive; unpack it, and give the folder of its files")
    root = folder.parent if folder.name.lower() in ("annotations", "labels") else folder
    hint = f", with this file as `split.train='{path.relative_to(root)}'`" if path.suffix.lower() == ".json" else ""
    raise DataError(f"{path}: is a file; give the folder of its images and labels, such as {root}{hint}")


def detect_source(root: Path, format: str | DatasetFormat = AUTO, task: Task = "detection") -> DatasetSource:
    """Detect the data set in a folder, and log it. Raises DataError for none, AmbiguousFormatError for several."""
    root = find_folder(root)
    if root.is_file():
        return _open_file(root, format, task)
    tree = Tree(root)
    detected: list[DatasetSource] = []
    sources: list[DatasetSource] = []
    for one in find_formats(format, task):
        detected += one.detect(tree)
        sources = [source for source in detected if not source.problem]
        if sources and task not in ("detection", "instance_segmentation"):
            sources = sources[:1]  # several formats share label images; the list is in order of precedence
            break
    if len(sources) == 1:
        log.info("%s: taken for a data set in the format %s (%s)", root, sources[0], ", ".join(sources[0].splits))
        return sources[0]
    if sources:
        raise AmbiguousFormatError(
            f"{root}: it holds labels more than once: {'; '.join(map(str, sources))}. Choose with `format='YOLO'` or "
            "another; one of several folders of YOLO labels with `format='YoloFormat'` and `format.labels='FOLDER'`"
        )
    if recognised := near_misses(tree):
        raise DataError(f"{root}: {'; '.join(recognised)}")
    suffixes = Counter(Path(file).suffix or "no suffix" for file in tree.files)
    files = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(8)) or "none"
    searched = ", ".join(f"{one.name} ({one.marks})" for one in find_formats(format, task))
    problems = "".join(f"; {source.problem}" for source in detected)
    raise DataError(f"{root}: no labels of a known format. Looked for {searched}. Found files: {files}{problems}")


def _open_file(file: Path, format: str | DatasetFormat, task: Task) -> DatasetSource:
    """Open a file of COCO as a data set that is not split. Raises DataError for another format."""
    for one in find_formats(format, task):
        if isinstance(one, CocoFiles):
            source = one.open_file(file)
            log.info("%s: taken for a data set in the format %s, not split", file, source.format.name)
            return source
    raise DataError(f"{file}: is a file of COCO; give the folder of your data, or leave out `format`")


def detect_any(root: Path, format: str | DatasetFormat = AUTO, tasks: Sequence[Task] = TASKS) -> DatasetSource:
    """Detect the data set in a folder for the first of ``tasks`` that has one; an error is that of the first task."""
    formats = find_formats(format, *tasks)
    first, *others = [task for task in tasks if any(task in one.tasks for one in formats)]
    try:
        return detect_source(root, format, first)
    except DataError:
        for task in others:
            with suppress(DataError):
                return detect_source(root, format, task)
        raise


def open_source(
    root: Path,
    format: str | DatasetFormat,
    task: Task,
    names: Mapping[str, str] = NO_NAMES,
    masks: MaskReading = "none",
) -> DatasetSource:
    """Open a folder for a task: in the named format, else in the detected one.

    ``names`` are the user's names of the splits. Raises DataError, naming other formats that the folder matches.
    """
    root = find_folder(root) if root.is_file() else root
    if format == AUTO or root.is_file():
        source = detect_source(root, format, task)
    else:
        (stated,) = find_formats(format, task)
        try:
            source = stated.open(root, names)
        except AmbiguousFormatError:
            raise
        except DataError as error:
            others = _matching(root, stated, task)
            if not others:
                raise
            raise DataError(f"{error}; it looks like {' or '.join(others)}: `format={others[0]!r}`") from None
    return source.format.select(source, names, masks)


def _matching(root: Path, stated: DatasetFormat, task: Task) -> list[str]:
    """Name the other formats of a task that detect a data set in a folder."""
    if not root.is_dir():
        return []
    tree, names = Tree(root), []
    for other in find_formats(AUTO, task):
        with suppress(DataError):
            if other.name != stated.name and any(not source.problem for source in other.detect(tree)):
                names.append(other.name)
    return names
