"""The errors that Raphe raises on purpose.

Every message names the value, the limit and the remedy. A command prints the
message without a traceback and exits with status 2 (bad input) or 1 (a run
that could not finish); anything else that escapes is a defect of Raphe.
"""


class RapheError(Exception):
    """Base of every error whose message is meant for the user."""


class ConfigError(RapheError):
    """A configuration that cannot be carried out as it is written."""


class VolumeError(RapheError):
    """An array that cannot be opened, read or created."""


class TableError(RapheError):
    """A table that is missing, damaged or of another schema."""


class ModelError(RapheError):
    """A model that cannot be loaded or does not fit the data."""


class RunError(RapheError):
    """A run that stopped before all of its blocks were done."""
