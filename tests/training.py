"""Options of a Trainer in tests."""

from __future__ import annotations

from typing import Any

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}
TRAINING_ONLY: dict[str, Any] = {**QUIET, "num_sanity_val_steps": 0, "limit_val_batches": 0}
