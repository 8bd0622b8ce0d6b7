"""From what storage and metadata raise to errors that say what to do.

Only the errors that storage is known to raise are translated; a defect of our
own keeps its type and its traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import VolumeError

STORAGE_ERRORS: tuple[type[Exception], ...] = (
    ValueError,
    LookupError,
    OSError,
    RuntimeError,
    NotImplementedError,
)
"""What TensorStore and the operating system raise when storage fails."""

_REMEDIES = (
    (
        ("no space left", "resource_exhausted", "disk quota", "file too large"),
        "The disk is full: free some space, then run again.",
    ),
    (
        ("credential", "unauthenticated", "permission", "403", "401", "access denied", "signature"),
        "Access was refused: check the permissions of the file, or the credentials "
        "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, "
        "GOOGLE_APPLICATION_CREDENTIALS).",
    ),
    (
        ("resolve host", "connect to", "curl error", "timed out"),
        "The server cannot be reached: check the bucket's name, the network, and "
        "AWS_ENDPOINT_URL if the bucket is not at Amazon.",
    ),
    (
        (
            *("data_loss", "decod", "decompress", "corrupt", "damaged", "truncated", "filter"),
            *(
                "checksum",
                "crc",
                "digest",
                "not a zip",
                "mmap length",
                "failed to read",
                "error reading",
            ),
        ),
        "The stored bytes are damaged: restore the object from its source, or delete it "
        "if it is part of an output.",
    ),
)


@contextmanager
def storage_errors(doing: str, url: str, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Raise what TensorStore raises as a `VolumeError` that says what to do.

    Parameters
    ----------
    doing : str
        What is attempted, for the message: ``"read voxels 0:4 of"``.
    url : str
        Of what.
    also : tuple of type
        What another library raises when storage fails.
    """
    expected = STORAGE_ERRORS + also
    try:
        yield
    except expected as error:
        text = str(error).lower()
        remedy = next(
            (advice for words, advice in _REMEDIES if any(word in text for word in words)),
            "Check the path or URL.",
        )
        raise VolumeError(f"cannot {doing} {url}: {error}. {remedy}") from error


@contextmanager
def metadata_errors(what: str, url: str) -> Iterator[None]:
    """Raise what malformed metadata leads to as a `VolumeError` that names it.

    Parameters
    ----------
    what : str
        The part of the metadata: ``"multiscales"``.
    url : str
        Of the array or group that it describes.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise VolumeError(
            f"the metadata ({what}) of {url} cannot be understood: "
            f"{type(error).__name__} {error}. Correct it, or convert the volume again."
        ) from error
