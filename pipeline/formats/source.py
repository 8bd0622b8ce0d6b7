"""An array as its format stores it: axes, units and voxels in storage order."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt

from pipeline.errors import VolumeError
from pipeline.geometry import Triple, triple
from pipeline.remedies import metadata_errors

Slices = tuple[slice, ...]
Reader = Callable[[Slices], npt.NDArray[Any]]
Scale = tuple[float, float, float]


@dataclass(frozen=True)
class Source:
    """An array that can be read, described in the order in which it is stored.

    Parameters
    ----------
    url : str
        Of the array itself, also if a group around it was asked for.
    format : str
        Name of the format, for messages.
    shape, chunk : tuple of int
        Extent, and what is stored (or compressed) together, per axis.
    dtype : numpy.dtype
    read : callable
        The values inside one slice per axis.
    usual_axes : str
        What the format's documentation says of 3-D arrays without named axes.
    axes : tuple of str, optional
        Names of the axes, if the metadata has them.
    scale, translation : tuple of float, optional
        nm, for the three axes of space in the order in which they are stored.
    offsets : list of tuple of int, optional
        Affinity offsets of the channels, (z, y, x).
    identity : mapping
        Plain JSON that tells this array from another, without its shape.
    errors : tuple of type
        What `read` raises, besides TensorStore's and the system's errors.
    """

    url: str
    format: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Reader
    identity: Mapping[str, Any]
    usual_axes: str = "zyx"
    axes: tuple[str, ...] | None = None
    scale: Scale | None = None
    translation: Scale | None = None
    offsets: list[Triple] | None = field(default=None)
    errors: tuple[type[Exception], ...] = ()


def axis_names(names: Iterable[Any] | None, ndim: int) -> tuple[str, ...] | None:
    """Names of axes in our spelling, or None if not every axis has one."""
    found = tuple(_spelling(name) for name in names or () if name)
    return found if len(found) == ndim else None


def _spelling(name: Any) -> str:
    text = str(name).rstrip("^").lower()
    return {"channel": "c", "channels": "c", "time": "t"}.get(text, text)


def three(values: Any, url: str, what: str) -> Scale | None:
    """Three lengths from metadata, of which a channel axis' value is left out."""
    if values is None:
        return None
    with metadata_errors(what, url):
        numbers = tuple(float(value) for value in np.atleast_1d(np.asarray(values)))
    if len(numbers) == 4:
        numbers = numbers[1:]
    if len(numbers) != 3:
        raise VolumeError(f"{what} of {url} is {values!r}, but three numbers are expected")
    return numbers


def triples(values: Any, url: str) -> list[Triple] | None:
    """The `offsets` attribute of an affinity array."""
    with metadata_errors("offsets", url):
        return None if values is None else [triple(value) for value in values]


def digest(document: Mapping[str, Any], without: Iterable[str]) -> str:
    """Checksum of a metadata object that does not depend on the array's extent."""
    kept = {key: value for key, value in document.items() if key not in set(without)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def local_path(url: str) -> Path | None:
    """The path that a local URL names; None for one that is not local."""
    if "://" not in url:
        return Path(url)
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def split_member(url: str, suffixes: str) -> tuple[Path, str] | None:
    """``file.h5:/path`` as the file and the name inside it ("" if none is given).

    Parameters
    ----------
    suffixes : str
        Alternatives of a regular expression: ``"h5|hdf5"``.

    Raises
    ------
    VolumeError
        If the file is remote or missing.
    """
    match = re.fullmatch(rf"(.+\.(?:{suffixes}))(?::/?(.*))?", url, re.IGNORECASE)
    if match is None:
        return None
    path = local_path(match[1])
    if path is None:
        raise VolumeError(
            f"{match[1]} is a single file on a remote store, which is not read there. "
            "Copy it to a local disk, or convert it to zarr."
        )
    if not path.is_file():
        if path.is_dir():
            return None
        raise VolumeError(f"there is no file {path} (asked for {url!r}); check the path")
    return path, match[2] or ""


def choose_member(path: Path, name: str, members: list[str]) -> str:
    """The only array of a file if no name is given; else `name` was not found.

    Raises
    ------
    VolumeError
        With the names that could be given.
    """
    if not name and len(members) == 1:
        return members[0]
    listed = ", ".join(f"{path}:/{member}" for member in members[:20]) or "none at all"
    asked = f"no array {name!r}" if name else "no single array to choose"
    raise VolumeError(f"there is {asked} in {path}. Name one of its arrays: {listed}.")


def file_identity(path: Path, kind: str, **more: Any) -> dict[str, Any]:
    """What tells the content of one file from another."""
    stat = path.stat()
    where = path.resolve().as_uri()
    return {"format": kind, "url": where, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns} | more
