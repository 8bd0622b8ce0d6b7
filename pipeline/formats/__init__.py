"""What can be opened as a volume, one module per format.

Every module has ``find(url)``, which returns a `Source` if something of its
format is at the URL and None if not. Formats are told apart by what is stored
there, and by the file's suffix for formats of one file.
"""

from __future__ import annotations

import os

from pipeline.errors import VolumeError
from pipeline.formats import hdf5, n5, numpy_files, precomputed, tiff, zarrs
from pipeline.formats.source import Source

_FORMATS = (hdf5, numpy_files, tiff, zarrs, n5, precomputed)

_PREFIXES = {
    "precomputed": precomputed,
    "n5": n5,
    "zarr": zarrs,
    "zarr2": zarrs,
    "zarr3": zarrs,
}
"""As in ``precomputed://gs://bucket/volume``: only this format is looked for."""


def find_source(url: str) -> Source:
    """The array stored at `url`, as it is stored.

    A prefix that names the format, as in ``precomputed://gs://…``, spares the
    search for others (which a bucket may refuse that cannot be listed).

    Raises
    ------
    VolumeError
        If nothing that can be read is there.
    """
    prefix, _, rest = url.partition("://")
    formats = (_PREFIXES[prefix],) if prefix in _PREFIXES else _FORMATS
    place = rest if prefix in _PREFIXES else url
    if "://" not in place:
        place = os.path.abspath(place)  # noqa: PTH100  (the volume keeps its symbolic name)
    for module in formats:
        found: Source | None = module.find(place)
        if found is not None:
            return found
    raise VolumeError(
        f"no volume is at {url!r}: no zarr.json, .zarray, attributes.json (N5) or info "
        "(precomputed) is there, and it is no HDF5, TIFF or numpy file. Check the path; inside "
        "HDF5 and .npz files, name the array: file.h5:/path, file.npz:/key."
    )


__all__ = ["Source", "find_source"]
