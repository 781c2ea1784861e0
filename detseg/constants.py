"""Constants that parts with and without torch share."""

IGNORE_INDEX = 255  # in a semantic mask: a pixel of no class, which is neither trained on nor measured
