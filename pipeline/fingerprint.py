"""What a block's result depends on, as one hash.

Invariant: two blocks with the same key have the same result. The key of a
block is a hash over its step (name, version, parameters), its geometry
(voxels, what it reads, which sides of the region of interest it touches), and
the keys of the blocks that it reads, as in a Merkle tree; blocks of steps that
read the input itself hash the input's identity. The shape of the volume enters
only through the sides that a block touches, so that a volume that grows leaves
the keys of all other blocks as they are.

Limits: keys are computed when they are asked for, and few are remembered.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import ConfigError
from pipeline.geometry import Box, Triple
from pipeline.steps import Step

REMEMBERED = 1 << 15
"""Keys kept in memory: enough for the subtrees of an octree on its way up and down."""


def canonical(value: Any) -> bytes:
    """Plain JSON values as bytes that depend on nothing but the values."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode()


def essence(step: Step) -> dict[str, Any]:
    """The parameters of a step that its result depends on, as plain JSON values.

    Raises
    ------
    ConfigError
        If a parameter is no plain JSON value.
    """
    kept = {name: value for name, value in step.params.items() if name not in step.paths}
    try:
        values: dict[str, Any] = json.loads(canonical(kept))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"a parameter of step {step.name!r} is no plain JSON value ({error}); "
            "steps may only have numbers, strings, booleans, lists and mappings of these"
        ) from error
    return values


def fingerprint(step: Step) -> str:
    """Hash of what a step does, apart from what it reads.

    Examples
    --------
    >>> from pipeline.geometry import Grid
    >>> grid = Grid(Box((0, 0, 0), (8, 8, 8)), (4, 4, 4))
    >>> one, other = (Step("s", print, {"a": a}, grid) for a in (1, 2))
    >>> fingerprint(one) == fingerprint(one), fingerprint(one) == fingerprint(other)
    (True, False)
    """
    data = canonical([step.name, step.version, essence(step)])
    return hashlib.sha256(data).hexdigest()[:32]


class Keys:
    """The keys of the blocks of a run.

    Parameters
    ----------
    steps : sequence of Step
        All steps of the run.
    volume : Box
        The whole input volume.
    identity : mapping
        What tells the input from another one.
    """

    def __init__(self, steps: Sequence[Step], volume: Box, identity: Mapping[str, Any]) -> None:
        self._steps = {step.name: step for step in steps}
        self._volume = volume
        source = hashlib.sha256(canonical(dict(identity))).hexdigest()
        self._heads = {
            step.name: [fingerprint(step), "" if step.after else source] for step in steps
        }
        self._remembered = functools.lru_cache(maxsize=REMEMBERED)(self._digest)
        # Blocks that read everything read the same: without this, n blocks would look at n.
        self._several = functools.lru_cache(maxsize=16)(self._digest_all)

    def key(self, step: str, index: Triple) -> str:
        """Key of a block: 32 hexadecimal digits."""
        return self._remembered(step, index).hex()

    def _digest(self, name: str, index: Triple) -> bytes:
        step = self._steps[name]
        box, roi = step.grid.at(index).box, step.grid.roi
        read = box.grow(step.lower, step.upper)
        seen = read.intersect(self._volume)
        sides = [a == b for a, b in zip(box.offset + box.end, roi.offset + roi.end, strict=True)]
        geometry = [box.offset, box.shape, seen.offset, seen.shape, sides]
        found = hashlib.blake2b(canonical([self._heads[name], geometry]), digest_size=16)
        for upstream in step.after:
            grid = self._steps[upstream].grid
            found.update(self._several(upstream, read.intersect(grid.roi)))
        return found.digest()

    def _digest_all(self, name: str, box: Box) -> bytes:
        """Digest of the keys of all blocks of a step that share a voxel with `box`."""
        found = hashlib.blake2b(digest_size=16)
        for block in self._steps[name].grid.overlapping(box):
            found.update(self._remembered(name, block.index))
        return found.digest()
