"""Constants that parts with and without torch share."""

STRIDE = 32  # of a backbone's coarsest map; batches are padded to multiples of it
IGNORE_INDEX = 255  # in a semantic mask: a pixel of no class, which is neither trained on nor measured
