"""Errors that a user can cause. The command line prints their message without a traceback."""


class DetsegError(Exception):
    """Something the user can put right; the message names the file, key or id, and the way on."""


class ConfigError(DetsegError):
    """A setting that does not exist or cannot be used."""


class DataError(DetsegError):
    """A data set, image or annotation that is missing or broken."""


class MaskError(DataError):
    """Objects without masks, which are no fault of a data set unless a network learns from them."""


class CheckpointError(DetsegError):
    """A checkpoint or weights file that is missing, broken or of another model."""
