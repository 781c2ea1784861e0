"""The two ranks of a distributed run, without a start of Python and its imports for each."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing import start_processes


def on_two_ranks(function: Callable[..., None], *arguments: Any) -> None:
    """Call a function in two forked processes, with the environment of a rank that torch and Lightning look for.

    Raises ProcessRaisedException with the traceback of a rank that fails.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start_processes(_rank, (port, function, arguments), nprocs=2, start_method="fork")


def _rank(rank: int, port: int, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)  # a thread pool does not survive a fork
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(rank)}
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    function(*arguments)
