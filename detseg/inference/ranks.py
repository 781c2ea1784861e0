"""Processes that divide the images of a prediction: those of torchrun, or those that ``launch`` starts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import joblib
import torch
from torch import distributed

from detseg.errors import ConfigError, DetsegError

LONGEST_WAIT = timedelta(days=30)  # of the first process that is ready for the last
ARRIVED = "arrived"  # key of the number of processes that wait


class Ranks(NamedTuple):
    """The number of this process, and the number of all. The default is a process alone."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # on this machine
    others: Sequence[subprocess.Popen[bytes]] = ()  # that this process has started

    def wait(self) -> None:
        """Wait until all processes have come here. Raises DetsegError if one has ended before."""
        if self.world_size == 1:
            return
        try:
            if not distributed.is_initialized():
                _store = self._meet()  # which has to live until the group has its own
                distributed.init_process_group("gloo", rank=self.rank, world_size=self.world_size, timeout=LONGEST_WAIT)
            distributed.barrier()
        except RuntimeError as error:  # the connection is closed
            raise DetsegError(
                "another process of this prediction has ended; its error is printed elsewhere in the output. Continue "
                "with `resume=true`"
            ) from error

    def _meet(self) -> Any:
        """Wait for the first time; torch would not notice that another process has ended before it came here."""
        if self.rank == 0 and not self.others:  # torchrun watches them
            return None
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store: Any = distributed.TCPStore(  # type: ignore[attr-defined]
            address, port, None, self.rank == 0, LONGEST_WAIT, wait_for_workers=False, multi_tenant=True
        )
        if self.rank:
            store.add(ARRIVED, 1)
        while self.others and store.add(ARRIVED, 0) < len(self.others):
            if any(process.poll() is not None for process in self.others):
                raise RuntimeError("a process has ended")
            time.sleep(0.05)
        return store


@contextmanager
def launch(command: Sequence[str], count: int) -> Iterator[Ranks]:
    """Start the other processes of a ``detseg`` command that takes ``count``, and yield the number of this one.

    Processes of torchrun are all there already. Those that are still running at the end are stopped after an error.
    Raises ConfigError for a ``count`` below 1.
    """
    if count < 1:
        raise ConfigError(f"devices {count}: must be at least 1")
    try:
        if "RANK" in os.environ or count == 1:
            rank, world_size, local_rank = (os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
            yield Ranks(int(rank or 0), int(world_size or 1), int(local_rank or 0))
        else:
            with _start_others(command, count) as others:
                yield Ranks(0, count, others=others)
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


@contextmanager
def _start_others(command: Sequence[str], count: int) -> Iterator[Sequence[subprocess.Popen[bytes]]]:
    """Run a command in processes of the numbers from 1, and wait for them; after an error, stop them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    threads = max(1, joblib.cpu_count() // count)
    torch.set_num_threads(threads)
    python = [sys.executable, "-c", "from detseg.cli import main; main()"]
    others = []
    os.environ |= address
    try:
        for rank in map(str, range(1, count)):
            ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": str(count), "OMP_NUM_THREADS": str(threads)}
            others.append(subprocess.Popen([*python, *command], env=os.environ | ranks, stdout=subprocess.DEVNULL))
        yield others
        for process in others:
            process.wait()
    finally:
        for process in others:
            process.kill()
            process.wait()
        for name in address:
            os.environ.pop(name)
