"""Tasks: in 0.1.0 ``model`` held the settings of the training and, below ``network``, the model."""

TASK_SETTINGS = {
    "optimizer": "optimizer.name",
    "schedule": "schedule.name",
    **{name: f"optimizer.{name}" for name in ("momentum", "weight_decay", "backbone_lr_factor")},
    **{name: f"schedule.{name}" for name in ("milestones", "warmup_steps")},
    **{name: name for name in ("lr", "reference_batch", "compile_loss")},
    **{name: name for name in ("class_weights", "features_gib")},
}
KEYS = {"window": "crop_size", "model.network": "model"} | {
    f"model.{name}": f"task.{new}" for name, new in TASK_SETTINGS.items()
}
STATE_PREFIXES = {"network.": "model."}
