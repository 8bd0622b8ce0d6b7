"""The sparse contingency table of two labelled volumes.

Invariant: a table is a pure count of voxels, sorted by (truth, label), so the
table of a volume is the same whatever the blocks that it was summed from and
whatever their order. Nothing in it is a float.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import VolumeError

Ids = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Contingency:
    """How many voxels each pair of segments has in common.

    Parameters
    ----------
    truth, label : ndarray of uint64, shape (n,)
        The pairs that occur, each once, sorted by truth, then label.
    count : ndarray of int64, shape (n,)
        Voxels of each pair; at least 1.
    """

    truth: Ids
    label: Ids
    count: Counts

    @property
    def n_voxels(self) -> int:
        """Number of voxels counted."""
        return int(self.count.sum())

    def where(self, rows: npt.NDArray[np.bool_]) -> Contingency:
        """Some rows of the table."""
        return Contingency(self.truth[rows], self.label[rows], self.count[rows])

    def transposed(self) -> Contingency:
        """The table with the two volumes exchanged."""
        return _summed(self.label, self.truth, self.count)


def contingency(
    truth: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    keep: npt.NDArray[np.bool_] | None = None,
) -> Contingency:
    """Count the pairs of segments of two arrays.

    Parameters
    ----------
    truth, labels : ndarray of int
        Segment ids, not negative, of one shape.
    keep : ndarray of bool, optional
        The voxels that count; by default those whose truth is not 0. Label 0
        inside the truth counts as one more segment.

    Returns
    -------
    Contingency

    Raises
    ------
    VolumeError
        If the shapes differ or an id is negative or not an integer.

    Examples
    --------
    >>> table = contingency(np.array([0, 1, 1, 2]), np.array([5, 5, 7, 7]))
    >>> list(zip(table.truth.tolist(), table.label.tolist(), table.count.tolist()))
    [(1, 5, 1), (1, 7, 1), (2, 7, 1)]
    """
    if truth.shape != labels.shape:
        raise VolumeError(
            f"truth has {truth.shape} voxels and labels have {labels.shape}; "
            "crop both to the same region"
        )
    inside = (truth != 0) if keep is None else keep
    rows, columns = _ids(truth[inside], "truth"), _ids(labels[inside], "labels")
    # Neighbours along x mostly share their pair: sorting runs in place of voxels
    # makes this several times quicker.
    changes = (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1])
    starts = np.concatenate([np.zeros(min(rows.size, 1), np.int64), np.flatnonzero(changes) + 1])
    lengths = np.diff(starts, append=rows.size)
    return _summed(rows[starts], columns[starts], lengths)


def merge(tables: Iterable[Contingency]) -> Contingency:
    """The table of several disjoint parts of a volume, in whatever order they come."""
    parts = list(tables)
    return _summed(
        np.concatenate([np.empty(0, np.uint64), *(part.truth for part in parts)]),
        np.concatenate([np.empty(0, np.uint64), *(part.label for part in parts)]),
        np.concatenate([np.empty(0, np.int64), *(part.count for part in parts)]),
    )


def group_sums(keys: Ids, counts: Counts) -> tuple[Ids, Counts]:
    """The distinct `keys` in ascending order and the sum of the counts of each."""
    distinct, inverse = np.unique(keys, return_inverse=True)
    sums = np.zeros(distinct.size, np.int64)
    np.add.at(sums, inverse, counts)
    return distinct, sums


def _summed(truth: Ids, label: Ids, count: Counts) -> Contingency:
    """The table with equal pairs added up."""
    order = np.lexsort((label, truth))
    truth, label, count = truth[order], label[order], count[order]
    first = np.ones(truth.size, np.bool_)
    first[1:] = (truth[1:] != truth[:-1]) | (label[1:] != label[:-1])
    starts = np.flatnonzero(first)
    sums = np.add.reduceat(count, starts) if starts.size else count
    return Contingency(truth[starts], label[starts], sums.astype(np.int64, copy=False))


def _ids(values: npt.NDArray[Any], what: str) -> Ids:
    if values.dtype.kind not in "bui":
        raise VolumeError(
            f"{what} has dtype {values.dtype}, but segment ids are integers; "
            "give a label volume, or convert it to uint64"
        )
    if values.dtype.kind == "i" and values.size and values.min() < 0:
        raise VolumeError(
            f"{what} holds the id {int(values.min())}, but ids are at least 0; "
            "write background as 0 in place of a negative id"
        )
    return values.astype(np.uint64, copy=False)
