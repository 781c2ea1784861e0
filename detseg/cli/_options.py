"""Write the Python arguments that messages of the library name as options of the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping

# `name` or `name=value` anywhere, or a name, perhaps with a value, before the first colon; names may have dots.
ARGUMENT = re.compile(r"`(?P<name>[\w.]+)(?:=(?P<value>[^`]*))?`|^(?P<subject>[\w.]+)(?=(?: (?:\[[^]]*\]|[^\s:]+))?: )")

# Options of the commands that take whole settings.
GROUPED = {
    "batch_size": "data.batch_size",
    "format": "data.format",
    "lr": "task.lr",
    "masks": "data.masks",
    "num_workers": "data.num_workers",
    "proposals": "data.proposals",
    "resume_anyway": "resume_anyway",
    "root": "data.root",
    "split": "data.split",
    "transforms": "data.transforms",
    **{name: f"trainer.{name}" for name in ("check_val_every_n_epoch", "enable_checkpointing", "limit_val_batches")},
    **{name: f"trainer.{name}" for name in ("max_epochs", "max_steps", "val_check_interval")},
    "warmup_steps": "task.schedule.warmup_steps",
    **{name: f"task.{name}" for name in ("class_weights", "compile_loss", "features_gib", "max_bad_steps")},
    **{name: f"task.{name}" for name in ("optimizer", "reference_batch", "schedule")},
}
PREDICTION = {name: name for name in ("batch_size", "threshold", "crop_size", "scales", "flip", "tile", "overlap")}
SOURCES = {name: name for name in ("column", "recursive", "num_workers", "out", "resume", "shard", "as", "devices")}
# Options of each command by the argument that they set.
OPTIONS: dict[str, Mapping[str, str]] = {
    "check": {"format": "format"},
    "draw": {"format": "format"},
    "embed": {name: name for name in ("format", "layer", "method")},
    "convert": {"class_names": "classes"},
    "export": {name: name for name in ("format", "half", "images", "int8", "size")},
    "convert-data": {name: name for name in ("format", "masks")},
    **dict.fromkeys(("browse", "propose", "train"), GROUPED),
    "evaluate": PREDICTION | GROUPED,
    "predict": PREDICTION | SOURCES,
    "merge": {"as": "as"},
    "probe": {**GROUPED, "min_count": "min_count"},
}
RESUME = "resume the training"


def with_options(message: str, command: str) -> str:
    """Return ``message`` with every argument that is an option of ``command`` written as one."""
    if command == "train":
        message = message.replace(RESUME, f"{RESUME} with --resume last")
    options = OPTIONS.get(command, {})

    def option(match: re.Match[str]) -> str:
        name, value = match["name"] or match["subject"], match["value"]
        first, dot, rest = name.partition(".")
        if first not in options:
            return match[0]
        text = f"--{options[first]}{dot}{rest}" + ("" if value is None else " " + value.strip("'\""))
        return text if match["subject"] else f"`{text}`"

    return ARGUMENT.sub(option, message)
