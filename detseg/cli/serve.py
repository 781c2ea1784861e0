"""`detseg serve`: an HTTP server that returns the prediction for a posted image."""

import os
import signal
import socket
from collections.abc import Sequence
from typing import Any, Literal

from jsonargparse.typing import ClosedUnitInterval, PositiveFloat, PositiveInt

from detseg.cli._parser import make_parser, parse
from detseg.errors import ConfigError, DetsegError
from detseg.inference.loading import load_model

MIN_PORT, MAX_PORT = 1024, 65535  # of LitServe
KEEP_ALIVE = 75  # seconds: longer than proxies and clients keep a connection, so that they close it and not the server


def run(arguments: Sequence[str]) -> None:
    """Serve a checkpoint until the process is stopped."""
    parser = make_parser("serve", "CHECKPOINT [--host 127.0.0.1] [--port 8000] [--threshold SCORE]")
    add = parser.add_argument
    add("checkpoint", type=str, help="Written by `detseg train`, `convert` or `publish`.")
    hosts = Literal["127.0.0.1", "0.0.0.0", "::"]
    add("--host", type=hosts, default="127.0.0.1", help="0.0.0.0 accepts requests from other machines.")
    add("--port", type=PositiveInt, default=8000, help="Images are posted to http://HOST:PORT/predict.")
    add("--threshold", type=ClosedUnitInterval | None, help="Lowest score of an object; default: as of `predict`.")
    add("--batch_size", type=PositiveInt, default=8, help="Requests that share a batch, at most.")
    add("--max_bytes", type=PositiveInt, default=20_000_000, help="Largest size of a request.")
    add("--max_pixels", type=PositiveInt, default=25_000_000, help="Largest size of an image.")
    add("--timeout", type=PositiveFloat, default=30.0, help="Seconds that a request may wait.")
    add("--max_waiting", type=PositiveInt, default=128, help="Requests that may wait at once; others get status 503.")
    options = parse(parser, arguments)
    _check_port(options.host, options.port)
    try:
        import litserve
        from fastapi.exceptions import RequestValidationError

        from detseg.inference.serving import PredictionAPI, WaitingLimit, refuse_body
    except ImportError as error:
        raise DetsegError("detseg serve needs the package litserve: pip install 'detseg[serve]'") from error
    load_model(options.checkpoint)  # an error here is plainer than one of a worker
    api = PredictionAPI(options.checkpoint, options.threshold, options.batch_size, options.max_pixels)
    server = litserve.LitServer(
        api,
        devices=1,
        timeout=options.timeout,
        max_payload_size=options.max_bytes,
        middlewares=[(WaitingLimit, {"limit": options.max_waiting})],
    )
    server.app.add_exception_handler(RequestValidationError, refuse_body)
    _end_on_sigterm()
    server.run(
        options.host, options.port, generate_client_file=False, log_level="warning", timeout_keep_alive=KEEP_ALIVE
    )


def _check_port(host: str, port: int) -> None:
    """Raise ConfigError for a port that cannot be opened, before the model is loaded."""
    if not MIN_PORT <= port <= MAX_PORT:
        raise ConfigError(f"--port {port}: must be from {MIN_PORT} to {MAX_PORT}")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"--port {port}: {error.strerror}; choose another one") from error


def _end_on_sigterm() -> None:
    """Let SIGTERM end the server as Ctrl-C does: LitServe would leave its other processes behind, with the port."""
    server = os.getpid()

    def end(*_: Any) -> None:
        raise KeyboardInterrupt if os.getpid() == server else SystemExit  # in a forked process, without a traceback

    signal.signal(signal.SIGTERM, end)
