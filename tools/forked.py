"""Commands of `detseg` in forked processes, which saves the start of Python."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from detseg import cli


def fork(command: Sequence[str], folder: Path, variables: Mapping[str, str] = MappingProxyType({})) -> int:
    """Run a command of `detseg` in a process, which leads a group of its own; return its id."""
    if process := os.fork():
        return process
    status = 1
    try:
        os.setsid()
        os.chdir(folder)
        os.environ |= variables
        output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(output, stream)
        cli.main(command)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    finally:
        os._exit(status)
