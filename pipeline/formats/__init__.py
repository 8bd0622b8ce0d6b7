"""What can be opened as a volume, one module per format.

Every module has ``find(url)``, which returns a `Source` if something of its
format is at the URL and None if not. Formats are told apart by what is stored
there, and by the file's suffix for formats of one file.
"""

from __future__ import annotations

import re

from pipeline.errors import VolumeError
from pipeline.formats import hdf5, n5, numpy_files, precomputed, tiff, zarrs
from pipeline.formats.source import Source

_FORMATS = (hdf5, numpy_files, tiff, zarrs, n5, precomputed)


def find_source(url: str) -> Source:
    """The array stored at `url`, as it is stored.

    Prefixes that name a format, as in ``precomputed://gs://…``, are not needed
    and left out.

    Raises
    ------
    VolumeError
        If nothing that can be read is there.
    """
    plain = re.sub(r"^(precomputed|zarr[23]?|n5)://", "", url)
    for module in _FORMATS:
        found: Source | None = module.find(plain)
        if found is not None:
            return found
    raise VolumeError(
        f"no volume is at {url!r}: no zarr.json, .zarray, attributes.json (N5) or info "
        "(precomputed) is there, and it is no HDF5, TIFF or numpy file. Check the path; inside "
        "HDF5 and .npz files, name the array: file.h5:/path, file.npz:/key."
    )


__all__ = ["Source", "find_source"]
