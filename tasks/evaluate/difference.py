"""Where two segmentations differ, whatever their labels are called.

A voxel agrees if its segment in either volume is the main partner of its
segment in the other: the one that shares most voxels with it (of several, the
one with the smaller id). So a plain change of ids is no difference, the smaller
part of a split or of a merge is, and so is a voxel that is 0 in just one volume.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tasks.evaluate.contingency import Contingency, Ids


@dataclass(frozen=True)
class Matching:
    """Pairs of segments that are each other's main partner.

    Parameters
    ----------
    a, b : ndarray of uint64, shape (n,)
        The pairs, ascending in `a`.
    """

    a: Ids
    b: Ids

    @classmethod
    def of(cls, table: Contingency) -> Self:
        """The matching that a contingency table (truth is a, label is b) says."""
        segments = table.where((table.truth > 0) & (table.label > 0))
        forth, back = main_partners(segments), main_partners(segments.transposed())
        mutual = back.b[np.searchsorted(back.a, forth.b)] == forth.a
        return cls(forth.a[mutual], forth.b[mutual])

    def differs(self, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Where two arrays of segments of one shape disagree."""
        partner = self.partner(a)
        matched = (partner == b) & (partner > 0)
        different: npt.NDArray[np.bool_] = ~matched & ((a > 0) | (b > 0))
        return different

    def partner(self, a: npt.NDArray[Any]) -> Ids:
        """Every segment of `a` replaced by its partner; 0 where it has none."""
        if not self.a.size:
            return np.zeros(a.shape, np.uint64)
        values = a.astype(np.uint64, copy=False)
        at = np.minimum(np.searchsorted(self.a, values), self.a.size - 1)
        partner: Ids = np.where(self.a[at] == values, self.b[at], np.uint64(0))
        return partner


def main_partners(table: Contingency) -> Matching:
    """For every segment of the first volume the one that shares most voxels with it."""
    order = np.lexsort((table.label, -table.count, table.truth))
    segments, first = np.unique(table.truth[order], return_index=True)
    return Matching(segments, table.label[order][first])
