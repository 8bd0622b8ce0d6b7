"""TIFF: one file of many pages, or a folder of numbered sections.

Axes are those that the file declares (ImageJ, OME, shaped); pages without a
declared axis are sections along z. The voxel size is read only where ImageJ
wrote both ``spacing`` and a unit of length: bare resolution tags are mostly
left-overs of printing.
"""

from __future__ import annotations

import logging
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from pipeline.errors import VolumeError
from pipeline.formats.source import (
    Scale,
    Slices,
    Source,
    axis_names,
    file_identity,
    local_path,
    split_member,
)
from pipeline.omezarr import nanometres
from pipeline.remedies import storage_errors

_ERRORS = (tifffile.TiffFileError, zlib.error)
_SUFFIXES = (".tif", ".tiff")
_UNNAMED = {"q", "i"}
"""What tifffile calls an axis of pages that the file does not name."""


def find(url: str) -> Source | None:
    """The multi-page file or the folder of sections at `url`."""
    folder = local_path(url)
    if folder is not None and folder.is_dir():
        names = sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES)
        return _stack(folder, names) if names else None
    found = split_member(url, "tiff?")
    return None if found is None else _file(found[0])


def _file(path: Path) -> Source:
    with storage_errors("open", str(path), _ERRORS), _opened(path) as file:
        series = file.series[0]
        named = axis_names(series.axes, series.ndim) or ()
        shape = tuple(series.shape)
        scale = _imagej_scale(file)
        dtype = np.dtype(series.dtype)

    def read(slices: Slices) -> npt.NDArray[Any]:
        with _opened(path) as again:
            series = again.series[0]
            if tuple(series.shape) != shape:
                raise ValueError(f"the file is damaged: its shape has become {series.shape}")
            return _read_series(series, slices)

    return Source(
        url=str(path),
        format="TIFF",
        shape=shape,
        chunk=(*(1 for _ in shape[:-2]), *shape[-2:]),
        dtype=dtype,
        read=read,
        axes=None if _UNNAMED & set(named) else named,
        scale=scale,
        identity=file_identity(path, "tiff"),
        errors=_ERRORS,
    )


class _Complaints(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def _opened(path: Path) -> Iterator[tifffile.TiffFile]:
    """A file whose chain of pages is whole; tifffile itself only logs where it breaks off."""
    handler = _Complaints(logging.ERROR)
    tifffile.logger().addHandler(handler)
    try:
        with tifffile.TiffFile(path) as file:
            yield file
    finally:
        tifffile.logger().removeHandler(handler)
    if handler.messages:
        raise ValueError(f"the file is damaged: {handler.messages[0]}")


def _read_series(series: tifffile.TiffPageSeries, slices: Slices) -> npt.NDArray[Any]:
    """Only the pages that `slices` name; ImageJ's huge files have one page for all."""
    lead, plane = slices[:-2], slices[-2:]
    counts = series.shape[:-2]
    if len(series.pages) != int(np.prod(counts)):
        return np.asarray(series.asarray()[slices])
    wanted = np.arange(len(series.pages)).reshape(counts)[lead]
    sections = [np.asarray(series.pages[int(i)].asarray())[plane] for i in wanted.ravel()]
    return np.stack(sections).reshape(*wanted.shape, *sections[0].shape)


def _imagej_scale(file: tifffile.TiffFile) -> Scale | None:
    metadata = file.imagej_metadata or {}
    factor = nanometres(_unescape(metadata.get("unit")))
    tags = file.pages[0].tags
    if factor is None or "spacing" not in metadata or "XResolution" not in tags:
        return None
    x, y = tags["XResolution"].value, tags["YResolution"].value
    if not x[0] or not y[0]:
        return None
    return metadata["spacing"] * factor, y[1] / y[0] * factor, x[1] / x[0] * factor


def _unescape(unit: Any) -> str | None:
    return None if unit is None else str(unit).replace("\\u00B5", "µ").replace("\\u00b5", "µ")


def _stack(folder: Path, names: list[Path]) -> Source:
    sections = _numbered(folder, names)
    first = sections[0]
    with storage_errors("open", str(first), _ERRORS):
        plane = tifffile.TiffFile(first).pages[0]
        shape, dtype = tuple(plane.shape), np.dtype(plane.dtype)
    if len(shape) != 2:
        raise VolumeError(
            f"section {first} has shape {shape}, but sections must be single grey planes; "
            "convert them first"
        )

    def read(slices: Slices) -> npt.NDArray[Any]:
        return np.stack([_section(p, shape, dtype)[slices[1:]] for p in sections[slices[0]]])

    return Source(
        url=str(folder),
        format="TIFF stacks",
        shape=(len(sections), *shape),
        chunk=(1, *shape),
        dtype=dtype,
        read=read,
        # The first section stands for the stack, so that it may grow night by night.
        identity=file_identity(first, "tiff-stack"),
        errors=_ERRORS,
    )


def _section(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    plane = np.asarray(tifffile.imread(path))
    if plane.shape != shape or plane.dtype != dtype:
        raise VolumeError(
            f"section {path} is {plane.dtype} of shape {plane.shape}, but the stack's first is "
            f"{dtype} of shape {shape}; all sections must be alike"
        )
    return plane


def _numbered(folder: Path, names: list[Path]) -> list[Path]:
    """The sections by the last number in their names, of which none may be missing."""
    numbers = {}
    for name in names:
        found = re.findall(r"\d+", name.stem)
        if not found:
            raise VolumeError(
                f"section {name} has no number in its name, so its place in the stack "
                "is unknown; rename it or move it away"
            )
        numbers[name] = int(found[-1])
    twice = [number for number, count in Counter(numbers.values()).items() if count > 1]
    if twice:
        alike = ", ".join(sorted(p.name for p, n in numbers.items() if n == twice[0]))
        raise VolumeError(
            f"in {folder} number {twice[0]} belongs to several sections ({alike}); "
            "keep one stack of sections in a folder"
        )
    missing = sorted(
        set(range(min(numbers.values()), max(numbers.values()) + 1)) - set(numbers.values())
    )
    if missing:
        raise VolumeError(
            f"sections are missing in {folder}: {', '.join(map(str, missing[:10]))}"
            f"{' …' if len(missing) > 10 else ''} ({len(missing)} in all). Add them, a copy of a "
            "neighbour for a lost section, or renumber the files."
        )
    return sorted(numbers, key=lambda path: numbers[path])
