"""`detseg serve`: an HTTP server that returns the prediction for a posted image."""

from collections.abc import Sequence

from jsonargparse.typing import ClosedUnitInterval, PositiveFloat, PositiveInt

from detseg.cli._parser import make_parser, parse
from detseg.errors import ConfigError, DetsegError
from detseg.inference.loading import load_model

MIN_PORT, MAX_PORT = 1024, 65535  # of LitServe


def run(arguments: Sequence[str]) -> None:
    """Serve a checkpoint until the process is stopped."""
    parser = make_parser("serve", "CHECKPOINT [--host 127.0.0.1] [--port 8000] [--threshold SCORE]")
    add = parser.add_argument
    add("checkpoint", type=str, help="Written by `detseg train`, `convert` or `publish`.")
    add("--host", type=str, default="127.0.0.1", help="0.0.0.0 accepts requests from other machines.")
    add("--port", type=PositiveInt, default=8000, help="Images are posted to http://HOST:PORT/predict.")
    add("--threshold", type=ClosedUnitInterval | None, help="Lowest score of an object; default: as of `predict`.")
    add("--batch_size", type=PositiveInt, default=8, help="Requests that share a batch, at most.")
    add("--max_bytes", type=PositiveInt, default=20_000_000, help="Largest size of a request.")
    add("--max_pixels", type=PositiveInt, default=25_000_000, help="Largest size of an image.")
    add("--timeout", type=PositiveFloat, default=30.0, help="Seconds that a request may wait.")
    add("--max_waiting", type=PositiveInt, default=128, help="Requests that may wait at once; others get status 503.")
    options = parse(parser, arguments)
    if not MIN_PORT <= options.port <= MAX_PORT:
        raise ConfigError(f"--port {options.port}: must be from {MIN_PORT} to {MAX_PORT}")
    try:
        import litserve

        from detseg.inference.serving import PredictionAPI, WaitingLimit
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
    server.run(options.host, options.port, generate_client_file=False, log_level="warning")
