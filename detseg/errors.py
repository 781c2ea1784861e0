"""Errors that a user can cause. The command line prints their message without a traceback."""

from pathlib import Path


class DetsegError(Exception):
    """Something the user can put right; the message names the file, key or id, and the way on."""


class ConfigError(DetsegError):
    """A setting that does not exist or cannot be used."""


class DataError(DetsegError):
    """A data set, image or annotation that is missing or broken."""


class MaskError(DataError):
    """Objects without masks, an error only for a model that learns from masks."""


class CheckpointError(DetsegError):
    """A checkpoint or weights file that is missing, broken or of another model."""


class ExportError(DetsegError):
    """An exported model that does not compute what its checkpoint does."""


WORKER_DIED = (
    "a loader process was killed, probably because the memory was full: set fewer `num_workers`, a "
    "smaller `batch_size`, or smaller images; `num_workers=0` needs no other process"
)
PASS_FILE = "pass a local file instead"  # the command line adds the option of the weights


def worker_died(error: RuntimeError) -> bool:
    """Tell if an error reports a killed DataLoader process. It can be raised anywhere in the program."""
    return str(error).startswith("DataLoader worker (pid")


def explain_content(source: Path | bytes) -> str | None:
    """Recognise a download that failed by the first bytes of a file, or of its content, and say how to get the file.

    Returns the rest of a message that begins with the path, such as "a Git LFS pointer instead of the file; run
    ..."; None for a file of any other content, or one that cannot be read.
    """
    try:
        head = source[:4096] if isinstance(source, bytes) else _read_head(source)
    except OSError:
        return None
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head:
        return "an empty file; download or copy it again"
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a Git LFS pointer instead of the file; run `git lfs pull` in its repository"
    if not head[:14].lower().startswith((b"<!doctype html", b"<html")):
        return None
    if b"Google Drive" in head and b"uota exceeded" in head:
        return "a page of Google Drive, whose quota is exceeded, instead of the file; download it again a day later"
    return "an HTML page instead of the file; download it again, signed in where the site asks for it"


def _read_head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


def reason(error: Exception) -> str:
    """Return the message of an error; a KeyError would put its own into quotation marks."""
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error)
