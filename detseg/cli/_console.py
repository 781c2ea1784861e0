"""Print the log of detseg and errors without a traceback, and silence the libraries."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from detseg.cli._options import with_options
from detseg.errors import WORKER_DIED, ConfigError, DetsegError, worker_died

log = logging.getLogger("detseg")

# Warnings about choices made on purpose, or that a user cannot change.
SILENCED = (
    "The '.*dataloader' does not have many workers",
    "This DataLoader will create .* worker processes",  # `num_workers` may exceed the cores, which a cluster restricts
    "The number of training batches .* is smaller than the logging interval",
    "It is recommended to use .*sync_dist=True",
    "Checkpoint directory .* exists and is not empty",
    "Found .* module.* in eval mode at the start of training",
    "Experiment logs directory .* exists and is not empty",
    "'pin_memory' argument is set as true but no accelerator is found",
    "Detected call of `lr_scheduler.step\\(\\)` before `optimizer.step\\(\\)`",
    "Grad strides do not match bucket view strides",
)
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # the first that is set, as Lightning
MISCONFIGURATION = "MisconfigurationException"  # of Lightning: an error of settings


class Printer(logging.Handler):
    """Print records to the current standard error, so that a progress bar can redirect it."""

    def __init__(self, command: str) -> None:
        super().__init__()
        self.command = command

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        print(printable(f"{prefix}{with_options(record.getMessage(), self.command)}"), file=sys.stderr)


@contextmanager
def quiet_logging(command: str) -> Iterator[None]:
    """Print only our log and the warnings that a user can act on, with the options of ``command``."""
    libraries = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in (log, *libraries)]
    printer = Printer(command)
    log.addHandler(printer)
    rank = next((int(value) for name in RANK_VARIABLES if (value := os.environ.get(name))), 0)
    log.setLevel(logging.ERROR if rank else logging.INFO)  # other ranks would repeat every line
    for logger in libraries:
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in SILENCED:
            warnings.filterwarnings("ignore", message)
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category)
        warnings.showwarning = lambda message, *_, **__: log.warning("%s", message)
        try:
            yield
        finally:
            log.removeHandler(printer)
            for logger, level in zip((log, *libraries), levels, strict=True):
                logger.setLevel(level)


def printable(text: str) -> str:
    """Escape what a name may hold and a terminal must not get: its control codes, and bytes that are not UTF-8.

    Newlines and tabs stay, and so do all blanks, such as those of Japanese names.
    """
    return "".join(char if char.isprintable() or _is_blank(char) else ascii(char)[1:-1] for char in text)


def _is_blank(char: str) -> bool:
    return char in "\n\t" or unicodedata.category(char) == "Zs"


def import_module(name: str) -> None:
    """Import the module that ``--module`` names. Raises ConfigError if that fails."""
    try:
        importlib.import_module(name)
    except (ImportError, ValueError) as error:  # ValueError for a relative or an empty name
        raise ConfigError(
            f"--module {name}: {error}; it must be a module that Python can import here, such as mine for mine.py"
        ) from error


def run(name: str, command: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> None:
    """Run a command; print an error that the user can correct as ``error: <message>``.

    The exit status is 2 for settings, and 1 for anything else, as data and checkpoints. That of ``check``, where 1
    stands for warnings, is always 2.
    """
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed by the caller; a file that is opened next must not take its place
            setattr(sys, stream, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for the life of the process
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # so that `class_path: mine.Net` is found in ./mine.py
    try:
        with quiet_logging(name):
            command(arguments)
    except Exception as error:
        if (message := _user_message(error)) is None:
            raise
        print(printable(f"error: {with_options(message, name)}"), file=sys.stderr)
        is_usage = isinstance(error, ConfigError) or _is(error, MISCONFIGURATION) or name == "check"
        raise SystemExit(2 if is_usage else 1) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _is(error: Exception, name: str) -> bool:
    """Tell an error of torch or Lightning by the name of its class: most commands need not import them."""
    return any(cls.__name__ == name for cls in type(error).__mro__)


def _user_message(error: Exception) -> str | None:
    """The message about an error that the user can correct; None for any other, as a bug."""
    if isinstance(error, DetsegError) or _is(error, MISCONFIGURATION):
        return str(error)
    if isinstance(error, OSError):  # such as a full disk
        return f"{error.filename}: {error.strerror}; correct that and try again" if error.filename else str(error)
    if _is(error, "OutOfMemoryError"):
        return f"the memory of the device is full; lower `batch_size`, or use smaller images ({error})"
    return WORKER_DIED if isinstance(error, RuntimeError) and worker_died(error) else None
