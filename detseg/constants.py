"""Constants that parts with and without torch share."""

STRIDE = 32  # of a backbone's coarsest map; batches are padded to multiples of it
MAX_PROPOSALS = 2000  # of an image: about as many as selective search gives R-CNN and Fast R-CNN
IGNORE_INDEX = 255  # in a semantic mask: a pixel of no class, which is neither trained on nor measured
