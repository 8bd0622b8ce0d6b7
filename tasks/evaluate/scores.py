"""Variation of information, adapted Rand error and CREMI score.

Invariant: everything up to the last division or logarithm is an exact integer,
and sums of floats are correctly rounded (`math.fsum`), so scores do not depend
on blocks or their order either.

Sources: Meilă 2003 (variation of information), Arganda-Carreras et al. 2015
(adapted Rand error), the CREMI challenge (their geometric mean).
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from pipeline.errors import VolumeError
from tasks.evaluate.contingency import Contingency, Counts, Ids, group_sums


@dataclasses.dataclass(frozen=True)
class Scores:
    """How far a segmentation is from the truth; 0 is perfect for every error.

    Parameters
    ----------
    voi_split, voi_merge : float
        Bits: H(labels | truth), what is split, and H(truth | labels), what is merged.
    adapted_rand_error : float
        1 - F-score of voxel pairs, 0 to 1.
    n_voxels, n_truth, n_labels : int
        Voxels counted, and how many segments of each kind they hold.
    """

    voi_split: float
    voi_merge: float
    adapted_rand_error: float
    n_voxels: int
    n_truth: int
    n_labels: int

    @property
    def voi(self) -> float:
        """Variation of information in bits, split + merge."""
        return self.voi_split + self.voi_merge

    @property
    def cremi_score(self) -> float:
        """Geometric mean of variation of information and adapted Rand error."""
        return math.sqrt(self.voi * self.adapted_rand_error)

    def as_dict(self) -> dict[str, float | int]:
        """All values by name, as they stand in JSON."""
        return {**dataclasses.asdict(self), "voi": self.voi, "cremi_score": self.cremi_score}


def score(table: Contingency) -> Scores:
    """The scores of a contingency table.

    Raises
    ------
    VolumeError
        If the table counts no voxel.

    Examples
    --------
    >>> from tasks.evaluate.contingency import contingency
    >>> score(contingency(np.array([1, 1, 2, 2]), np.array([1, 2, 3, 3]))).voi_split
    0.5
    """
    if not table.count.size:
        raise VolumeError(
            "there is no voxel to score: the truth is 0 wherever the volumes overlap and "
            "the mask allows. Check that truth and labels cover the same region."
        )
    truth, truth_sizes = group_sums(table.truth, table.count)
    label, label_sizes = group_sums(table.label, table.count)
    return Scores(
        voi_split=_conditional_entropy(table.count, _of(table.truth, truth, truth_sizes)),
        voi_merge=_conditional_entropy(table.count, _of(table.label, label, label_sizes)),
        adapted_rand_error=_adapted_rand_error(table.count, truth_sizes, label_sizes),
        n_voxels=table.n_voxels,
        n_truth=truth.size,
        n_labels=label.size,
    )


def _of(keys: Ids, distinct: Ids, sizes: Counts) -> Counts:
    return sizes[np.searchsorted(distinct, keys)]


def _conditional_entropy(joint: Counts, given: Counts) -> float:
    """Bits of sum over pairs of p(pair) * log2(p(given) / p(pair))."""
    return math.fsum(joint * np.log2(given / joint)) / int(joint.sum())


def _adapted_rand_error(joint: Counts, truth: Counts, labels: Counts) -> float:
    """1 - F-score of the ordered pairs of distinct voxels that share a segment."""
    both, of_truth, of_labels = _pairs(joint), _pairs(truth), _pairs(labels)
    wrong = of_truth + of_labels - 2 * both
    # No pair shares a segment in either volume: nothing can be wrong.
    return wrong / (of_truth + of_labels) if wrong else 0.0


def _pairs(sizes: Counts) -> int:
    # Python's integers: a teravoxel segment has 10^24 pairs.
    return sum(size * (size - 1) for size in sizes.tolist())
