"""Random valid data sets with one random defect: it is read as it was, or reported by name; nothing vanishes."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
import pytest

from detseg.check.checking import CheckResult, check_dataset
from detseg.check.repair import DROPPED_IMAGES, repair
from detseg.data.annotations.detection import DetectionAnnotations
from detseg.data.formats.format_detection import detect_source
from detseg.data.formats.unused import unused_images
from detseg.errors import DetsegError
from tests.data import made, sets

COUNT = int(os.environ.get("DETSEG_DEFECTS", "200"))
REPAIRS = int(os.environ.get("DETSEG_REPAIRS", "40"))
NUMBER = re.compile(rb"(?<![\w.])\d+(\.\d+)?(?![\w.])")
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 12345\n"
Content = dict[tuple[str, str], Counter[sets.Object]]  # objects by split and stem


class Case(NamedTuple):
    """A valid data set."""

    root: Path
    format: str
    label: Path  # the label file that is to be broken
    picture: sets.Picture  # an image that it labels
    split: str
    generator: np.random.Generator

    @property
    def image(self) -> Path:
        return next(self.root.rglob(f"{self.picture.stem}.png"))


Defect = Callable[[Case], "Path | str | None"]  # returns what must be named, None if all must be read as before


def content(change: Callable[[bytes], bytes]) -> Defect:
    """Change the bytes of the label file."""

    def defect(case: Case) -> Path:
        case.label.write_bytes(change(case.label.read_bytes()))
        return case.label

    return defect


def token(value: bytes) -> Defect:
    """Put something in the place of a random number of the label file."""

    def defect(case: Case) -> Path | str:
        text = case.label.read_bytes()
        numbers = [*NUMBER.finditer(text)]
        if numbers:
            chosen = numbers[int(case.generator.integers(len(numbers)))]
            case.label.write_bytes(text[: chosen.start()] + value + text[chosen.end() :])
        return case.label

    return defect


def with_image(change: Callable[[Case, Path], None]) -> Defect:
    """Change the image file."""

    def defect(case: Case) -> str:
        change(case, case.image)
        return case.picture.stem

    return defect


def rename_image(suffix: str) -> Defect:
    def defect(case: Case) -> str:
        case.image.rename(case.image.with_suffix(suffix))
        return case.picture.stem

    return defect


def renamed(name: Callable[[str], str], of_label: Callable[[str], str] = str) -> Defect:
    """Rename image and label file, if the latter is named like the image."""

    def defect(case: Case) -> str:
        case.image.rename(case.image.with_name(f"{name(case.picture.stem)}.png"))
        if case.label.stem == case.picture.stem:
            case.label.rename(case.label.with_name(of_label(case.picture.stem) + case.label.suffix))
        return case.picture.stem[1:]

    return defect


def hidden(case: Case) -> None:
    for file in [*case.root.rglob("*.*")]:
        (file.parent / f"._{file.name}").write_bytes(b"\x00\x05\x16\x07")


def macosx(case: Case) -> None:
    sets.write(case.root / "__MACOSX" / "train" / case.label.name, "\x00")


def empty_folder(case: Case) -> None:
    (case.root / "extra").mkdir()


def extra_folder(case: Case) -> str:
    for file, name in ((case.image, "other.png"), (case.label, f"other{case.label.suffix}")):
        (case.root / "extra").mkdir(exist_ok=True)
        shutil.copy(file, case.root / "extra" / name)
    return "other"


def split_folder(name: str) -> Defect:
    """Call the folders and files of the validation split by another name."""

    def defect(case: Case) -> None:
        for place in sorted(case.root.rglob("*val*"), key=lambda place: -len(place.parts)):
            place.rename(place.with_name(place.name.replace("val", name)))

    return defect


def move_label(case: Case) -> Path | str:
    target = case.root / "somewhere" / case.label.name
    target.parent.mkdir()
    case.label.rename(target)
    return case.picture.stem if case.format in sets.PER_IMAGE else case.label.stem


def twin(case: Case) -> str:
    shutil.copy(case.image, case.image.with_suffix(".jpeg"))
    return case.picture.stem


def copy_label(case: Case) -> str:
    shutil.copy(case.label, case.label.with_stem(case.label.stem + " copy"))
    return case.label.stem


def folder_for_label(case: Case) -> Path:
    case.label.unlink()
    case.label.mkdir()
    return case.label


def shout(case: Case) -> None:
    case.label.rename(case.label.with_suffix(case.label.suffix.upper()))


def resize(case: Case, file: Path) -> None:
    sets.draw_image(file, case.picture._replace(width=case.picture.width * 2, height=case.picture.height * 2))


DEFECTS: dict[str, Defect] = {
    "empty": content(lambda text: b""),
    "blank": content(lambda text: b" \n\n"),
    "lfs": content(lambda text: LFS),
    "html": content(lambda text: b"<!DOCTYPE html><html><body>Sign in</body></html>"),
    "html with a byte order mark": content(lambda text: b"\xef\xbb\xbf<html></html>"),
    "not found": content(lambda text: b"404: Not Found"),
    "cut in half": content(lambda text: text[: len(text) // 2]),
    "cut at a third": content(lambda text: text[: len(text) // 3]),
    "cut after one byte": content(lambda text: text[:1]),
    "last bytes cut": content(lambda text: text.rstrip()[:-1]),
    "last line cut": content(lambda text: b"\n".join(text.rstrip().split(b"\n")[:-1])),
    "utf-16": content(lambda text: text.decode().encode("utf-16")),
    "utf-16 big": content(lambda text: b"\xfe\xff" + text.decode().encode("utf-16-be")),
    "utf-32": content(lambda text: text.decode().encode("utf-32")),
    "byte order mark": content(lambda text: b"\xef\xbb\xbf" + text),
    "two byte order marks": content(lambda text: b"\xef\xbb\xbf" * 2 + text),
    "crlf": content(lambda text: text.replace(b"\n", b"\r\n")),
    "cr": content(lambda text: text.replace(b"\n", b"\r")),
    "nul in front": content(lambda text: b"\x00" + text),
    "all nul": content(lambda text: bytes(len(text))),
    "latin-1": content(lambda text: b"\xe9\xff" + text),
    "latin-1 at the end": content(lambda text: text + b"\xe9"),
    "garbage in front": content(lambda text: b"@@@ what\n" + text),
    "garbage at the end": content(lambda text: text + b"\n@@@ what"),
    "conflict": content(lambda text: b"<<<<<<< HEAD\n" + text + b"=======\n" + text + b">>>>>>> other\n"),
    "twice": content(lambda text: text * 2),
    "blank lines in front": content(lambda text: b"\n\n" + text if text[:5] != b"<?xml" else text),
    "blank lines at the end": content(lambda text: text + b"\n \n"),
    "list": content(lambda text: b"[]"),
    "list of numbers": content(lambda text: b"[1, 2]"),
    "object": content(lambda text: b"{}"),
    "null": content(lambda text: b"null"),
    "other xml": content(lambda text: b"<?xml version='1.0'?><note/>"),
    "other words": content(lambda text: b"a cat and a dog in a garden"),
    "png": content(lambda text: b"\x89PNG\r\n\x1a\n" + bytes(40)),
    "zip": content(lambda text: b"PK\x03\x04" + bytes(40)),
    "spaces become tabs": content(lambda text: text.replace(b" ", b"\t")),
    "no brackets": content(lambda text: text.replace(b"]", b"", 1).replace(b">", b"", 1)),
    "nan": token(b"nan"),
    "infinite": token(b"1e999"),
    "NaN": token(b"NaN"),
    "a word": token(b"x"),
    "nothing": token(b""),
    "a comma": token(b"0,5"),
    "a text": token(b'"x"'),
    "huge": token(b"99999999999"),
    "null number": token(b"null"),
    "two numbers": token(b"7 8"),
    "a dash": token(b"-"),
    "folder in its place": folder_for_label,
    "copied label file": copy_label,
    "moved label file": move_label,
    "capital suffix": shout,
    "image missing": with_image(lambda case, file: file.unlink()),
    "image empty": with_image(lambda case, file: file.write_bytes(b"") and None),
    "image lfs": with_image(lambda case, file: file.write_bytes(LFS) and None),
    "image html": with_image(lambda case, file: file.write_bytes(b"<html></html>") and None),
    "image doubled in size": with_image(resize),
    "image of an unknown suffix": rename_image(".heic"),
    "image without a suffix": rename_image(""),
    "image with a capital suffix": rename_image(".PNG"),
    "image with another suffix": rename_image(".webp"),
    "jfif": rename_image(".jfif"),
    "two images of one stem": twin,
    "blank against %20": renamed(lambda stem: f"a {stem}", lambda stem: quote(f"a {stem}")),
    "NFC against NFD": renamed(lambda stem: f"\u00e9{stem}", lambda stem: f"e\u0301{stem}"),
    "capital stem": renamed(lambda stem: stem.upper()),
    "hidden files": hidden,
    "macosx": macosx,
    "empty folder": empty_folder,
    "extra folder": extra_folder,
    "eval": split_folder("eval"),
    "dev": split_folder("dev"),
    "validation": split_folder("validation"),
    "valset": split_folder("valset"),
    "words in names": renamed(lambda stem: f"train_{stem}", lambda stem: f"train_{stem}"),
    "test in names": renamed(lambda stem: f"test1_{stem}", lambda stem: f"test1_{stem}"),
}


def read_objects(tables: dict[str, DetectionAnnotations]) -> Content:
    """Objects by split and image, in whole pixels."""
    content: Content = {}
    for split, table in tables.items():
        for index in range(len(table)):
            rows = range(*table.objects(index).indices(len(table.labels)))
            objects = [
                (table.classes[table.labels[row]], *np.round(table.boxes[row]).astype(int).tolist()) for row in rows
            ]
            content[split, table.path(index).stem.casefold()[-4:]] = Counter(objects)
    return content


def check(root: Path) -> tuple[CheckResult, dict[str, DetectionAnnotations]]:
    result = check_dataset(detect_source(root), False, 1, lambda count: nullcontext(lambda: None))
    return result, {split: one for split, one in result.splits.items() if isinstance(one, DetectionAnnotations)}


def look(root: Path) -> tuple[Content, list[str]]:
    """What a check reads, and its messages."""
    result, tables = check(root)
    return read_objects(tables), [issue.message for issue in result.issues if issue.kind not in IRRELEVANT]


def fix(root: Path, out: Path) -> str:
    """Describe what a repaired copy lacks of the sound objects, and what a check says about it; empty if nothing."""
    try:
        result, tables = check(root)
        repair(result, out, lambda: None)
    except DetsegError:  # no program can repair it
        return ""
    unusable = {issue.file for issue in result.issues if issue.kind in DROPPED_IMAGES}
    objects = {  # each once, also if its image is listed twice; boxes may be clipped
        (table.path(index), *one)
        for table in tables.values()
        for index in range(len(table))
        if str(table.path(index)) not in unusable
        for one in read_objects({"": table.subset([index])}).popitem()[1]
    }
    sound = Counter(name for _, name, *_ in objects)
    if not sound:
        return ""
    again, tables = check(out)
    messages = [issue.message for issue in again.issues if issue.kind not in (*IRRELEVANT, "objects-none")]
    lost = sound - Counter(table.classes[label] for table in tables.values() for label in table.labels)
    return f"{dict(lost)} lost, {messages}" if lost or messages else ""


IRRELEVANT = ("image-empty", "class-unused", "class-unseen", "class-unbalanced")


def train(root: Path, caplog: pytest.LogCaptureFixture) -> tuple[Content, list[str]]:
    """What a training reads, and what it logs."""
    caplog.clear()
    source = detect_source(root)
    messages = [issue.message for issue in source.issues]
    tables = {split: source.read(split) for split in source.splits}
    messages += [issue.message for issue in unused_images(source, tables.values())]
    return read_objects(tables), messages + [record.getMessage() for record in caplog.records]  # type: ignore[arg-type]


def build(number: int, root: Path) -> tuple[Case, sets.Truth, str]:
    """Build a valid data set, and choose a defect."""
    generator = np.random.default_rng(number)
    format = [*sets.WRITERS][number % len(sets.WRITERS)]
    splits = {"train": 3, "val": 2} | ({"test": 2} if generator.random() < 0.4 else {})
    truth = sets.draw_truth(generator, splits)
    files = sets.WRITERS[format](root, truth)
    split = [*truth][int(generator.integers(len(truth)))]
    if format in sets.PER_IMAGE:
        picture = truth[split][int(generator.integers(len(truth[split])))]
        label = next(file for file in files if file.stem == picture.stem)
    else:
        picture = truth[split][0]
        label = files[[*truth].index(split)]
    # Nothing tells that the end of a line or of a table is missing; YOLO states no size, and may have empty files.
    unseen = {"csv": ("cut",), "yolo": ("cut", "empty", "blank", "doubled in size")}.get(format, ())
    names = [name for name in DEFECTS if not any(word in name for word in unseen)]
    name = names[int(generator.integers(len(names)))]
    return Case(root, format, label, picture, split, generator), truth, name


@made.accents
@pytest.mark.parametrize("chunk", range(4))
def test_a_repair_keeps_what_is_sound(chunk: int, tmp_path: Path) -> None:
    wrong = []
    for number in range(chunk, REPAIRS, 4):
        case, _, name = build(number, tmp_path / str(number))
        DEFECTS[name](case)
        if message := fix(case.root, tmp_path / "out" / str(number)):
            wrong.append((number, case.format, name, case.label.name, case.picture.stem, message))
        shutil.rmtree(tmp_path)
    assert not wrong, "\n".join(map(str, wrong))


@made.accents
@pytest.mark.parametrize("chunk", range(4))
def test_a_defect_is_read_or_named(chunk: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    wrong = []
    for number in range(chunk, COUNT, 4):
        root = tmp_path / str(number)
        case, truth, name = build(number, root)
        expected = {
            (split, picture.stem): Counter(picture.objects) for split, pictures in truth.items() for picture in pictures
        }
        before = case.label.read_bytes()
        named = DEFECTS[name](case)
        unchanged = case.label.is_file() and case.label.read_bytes() == before and isinstance(named, Path)
        labelled = [case.picture] if case.format in sets.PER_IMAGE else truth[case.split]
        words = {os.fspath(named).rpartition("/")[2], *(picture.stem for picture in labelled)} if named else set()
        for reader in (look, lambda root: train(root, caplog)):
            try:
                content, messages = reader(root)
            except DetsegError as error:
                content, messages = {}, [str(error)]
            is_named = any(word in message for word in words for message in messages)
            if content != expected and not unchanged and not is_named:
                wrong.append((number, case.format, name, case.label.name, case.picture.stem, messages[:2]))
                break
        shutil.rmtree(root)
    assert not wrong, "\n".join(map(str, wrong))
