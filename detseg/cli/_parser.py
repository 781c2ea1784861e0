"""The parsers of the commands: jsonargparse with errors in plain words and settings of 0.1.0 translated."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader

from detseg.cli._errors import explain
from detseg.cli._transforms import set_options, split_options
from detseg.compat import translate_options, translate_settings
from detseg.errors import PASS_FILE, CheckpointError, ConfigError, DetsegError


def make_parser(command: str, usage: str, description: str | None = None) -> ArgumentParser:
    """Return a parser without options; ``usage`` is the command line after the name of the command."""
    return ArgumentParser(usage=f"detseg {command} {usage}", description=description, **parser_options(command))


def parser_options(command: str) -> dict[str, Any]:
    """Return the arguments that every parser is built with."""
    set_loader("detseg", _load, (yaml.YAMLError,))
    return {"prog": f"detseg {command}", "exit_on_error": False, "allow_abbrev": False, "parser_mode": "detseg"}


def parse(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """Parse ``arguments``, in which ``find_configs`` has resolved the files. Raises ConfigError with one plain line."""
    arguments, transforms = split_options(translate_options(arguments))
    try:
        if transforms:
            silent = [argument for argument in arguments if not argument.startswith("--print_config")]
            arguments.append(f"--data.transforms={set_options(parser.parse_args(silent).data, transforms)}")
        return parser.parse_args(arguments)
    except argparse.ArgumentError as error:
        raise explain(error.message, parser, arguments) from error


def require_minimum(options: Namespace, **minima: float) -> None:
    """Raise ConfigError for an option below its minimum."""
    for name, minimum in minima.items():
        if options[name] < minimum:
            raise ConfigError(f"--{name} {options[name]}: must be at least {minimum}")


def instantiate(parser: ArgumentParser, options: Namespace) -> Namespace:
    """Build the objects that the options describe. Raises the error of a constructor without jsonargparse's wrapper."""
    try:
        built: Namespace = parser.instantiate(options)
        return built
    except ValueError as error:  # jsonargparse raises it for any error in a constructor
        raise _with_weights_option(root_cause(error), options) from error


def _with_weights_option(error: Exception, options: Namespace) -> Exception:
    """Add the option that takes a file of weights to the error that they could not be fetched."""
    keys = [key.replace(".init_args", "") for key, value in options.items() if key.endswith(".weights") and value]
    if not isinstance(error, CheckpointError) or PASS_FILE not in str(error) or not keys:
        return error
    flags = " or ".join(f"`--{key} FILE`" for key in keys)
    return CheckpointError(str(error).replace(PASS_FILE, f"{PASS_FILE}, as {flags}"))


def root_cause(error: BaseException) -> Exception:
    """Return the error of a constructor that jsonargparse has wrapped; one of another library as a ConfigError."""
    chain = [error]
    while following := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(following)
    ours = [one for one in chain if isinstance(one, DetsegError)]
    return ours[-1] if ours else ConfigError(str(chain[-1]))


def _load(text: str) -> Any:
    """Load YAML, in which "None" is null too: jsonargparse passes a null of the command line on by that name."""
    return None if text == "None" else translate_settings(get_loader("yaml")(text))
