"""Map ids to labels, voxel by voxel, asking the table once a run of equal ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.kernels.jit import kernel


@kernel
def map_runs(
    volume: npt.NDArray[np.uint64],
    ids: npt.NDArray[np.uint64],
    labels: npt.NDArray[Any],
    out: npt.NDArray[Any],
) -> int:
    """Write the label of every voxel's id into `out`; 0 stays 0.

    Parameters
    ----------
    volume : ndarray of uint64, (z, y, x)
    ids : ndarray of uint64, (n,)
        Ascending.
    labels : ndarray of the dtype of `out`, (n,)
    out : ndarray, (z, y, x)

    Returns
    -------
    int
        An id that is not in the table, or 0 if all are.
    """
    flat, target = volume.reshape(-1), out.reshape(-1)
    last, label = np.uint64(0), labels.dtype.type(0)
    for i in range(len(flat)):
        if flat[i] != last:
            last = flat[i]
            if last == 0:
                label = labels.dtype.type(0)
            else:
                at = np.searchsorted(ids, last)
                if at == len(ids) or ids[at] != last:
                    return int(last)
                label = labels[at]
        target[i] = label
    return 0
