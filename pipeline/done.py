"""Which blocks are done: one marker a block, kept with the output.

Markers are ``done/<step>/<block>-<key>``; the key says what the result depends
on (`pipeline.fingerprint`), so one listing tells what is done, without reading
anything. ``done/<step>/step.json`` keeps what the step was made with, to say
why it is redone, and how many objects it wrote, to notice if some are gone.

Invariant: a block is done if it has a marker with its present key, every block
that it reads is done, and what its step wrote is still there. All other
markers are deleted before anything is redone, so that an interrupted redo
never looks done.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import omezarr
from pipeline.fingerprint import Keys, essence
from pipeline.geometry import Grid, Triple, triple
from pipeline.steps import Step
from pipeline.store import Store

Mask = npt.NDArray[np.uint8]
"""One byte a block of a grid, (z, y, x): 1 where it is done."""

_STEPS = "done/steps.json"

_MARKER = re.compile(r"^(-?\d+\.-?\d+\.-?\d+)-([0-9a-f]{32})$")


@dataclass
class Review:
    """What is found of a step at the start of a run.

    Parameters
    ----------
    mask : ndarray of uint8
        The blocks that are done.
    stale : list of str
        Names of markers that do not hold any more.
    reasons : list of str
        Why blocks that were done are redone; empty if none are.
    """

    step: Step
    mask: Mask
    stale: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Number of blocks that are done."""
        return int(np.count_nonzero(self.mask))

    @property
    def total(self) -> int:
        """Number of blocks."""
        return int(self.mask.size)


def marker(step: str, block: str, key: str) -> str:
    """Name of the done marker of a block."""
    return f"done/{step}/{block}-{key}"


def encode_marker(key: str, seconds: float, counters: Mapping[str, int]) -> bytes:
    """Content of a done marker."""
    record = {"key": key, "seconds": round(seconds, 4), "counters": dict(counters)}
    return json.dumps(record).encode()


def markers(store: Store, step: str) -> dict[str, tuple[str, str]]:
    """All markers of a step: name of the object to (block, key)."""
    prefix = f"done/{step}/"
    found = ((name, _MARKER.match(name[len(prefix) :])) for name in store.list(prefix))
    return {name: (match[1], match[2]) for name, match in found if match}


def review(store: Store, steps: Sequence[Step], keys: Keys) -> dict[str, Review]:
    """Find out what is done and what is not, and why; changes nothing."""
    found: dict[str, Review] = {}
    for step in steps:
        found[step.name] = _review(store, step, keys, found)
    return found


def settle(store: Store, reviews: Mapping[str, Review]) -> list[str]:
    """Make the store agree with the reviews, before anything is redone.

    Markers that do not hold are deleted, also those of steps that this run
    does not have: what it writes may lie where they wrote. What a step wrote
    goes with them if all of it is redone, or if this run has no such step: it
    would tell of other labels than those that are there.

    Returns
    -------
    list of str
        The steps that this run does not have.
    """
    names = list(reviews)
    others = [name for name in recorded_steps(store) if name not in reviews]
    store.write(_STEPS, json.dumps(names + others).encode())
    written = {output for each in reviews.values() for output in each.step.outputs}
    for name in others:
        for output in recorded(store, name).get("outputs", ()):
            if output not in written:
                store.delete_prefix(output)
                omezarr.remove_level(store.url + output)
        store.delete_prefix(f"done/{name}/")
    for each in reviews.values():
        if not each.done and (each.stale or _changes(store, each.step)):
            # First what was written, so that an interruption leaves markers that tell of it.
            # Blocks of the old kind are not mixed with new ones, and arrays may change their type.
            for output in each.step.outputs:
                store.delete_prefix(output)
            store.delete_prefix(f"done/{each.step.name}/")
        else:
            store.delete_many(each.stale)
        if each.done < each.total:
            _record(store, each.step, {})
    store.write(_STEPS, json.dumps(names).encode())
    return others


def finish(store: Store, step: Step) -> None:
    """Record that all blocks of a step are done, and how many objects it wrote."""
    objects = {output: len(store.list(output)) for output in step.outputs}
    _record(store, step, objects)


def recorded(store: Store, step: str) -> dict[str, Any]:
    """What is recorded of a step: ``version``, ``params``, ``blocks``, ``outputs``, ``objects``."""
    record: dict[str, Any] = store.read_json(f"done/{step}/step.json") or {}
    return record


def recorded_steps(store: Store) -> list[str]:
    """Names of the steps that a store has markers of, in the order of the last run."""
    names: list[str] = store.read_json(_STEPS) or []
    return names


def _record(store: Store, step: Step, objects: Mapping[str, int]) -> None:
    record = {
        "version": step.version,
        "params": essence(step),
        "blocks": len(step.grid),
        "outputs": step.outputs,
        "objects": dict(objects),
    }
    store.write(f"done/{step.name}/step.json", json.dumps(record, indent=1).encode())


def _review(store: Store, step: Step, keys: Keys, before: Mapping[str, Review]) -> Review:
    present = markers(store, step.name)
    mask = np.zeros(step.grid.counts, np.uint8)
    gone = _gone(store, step) if present else []
    result = Review(step, mask)
    for name, (block, key) in present.items():
        index = triple(int(part) for part in block.split("."))
        if not gone and index in step.grid and _holds(step, index, key, keys, before):
            mask[_position(step.grid, index)] = 1
        else:
            result.stale.append(name)
    if result.stale:
        result.reasons = gone or _changes(store, step) or _follows(step, before)
    return result


def _holds(step: Step, index: Triple, key: str, keys: Keys, before: Mapping[str, Review]) -> bool:
    read = step.grid.at(index).box.grow(step.lower, step.upper)
    for name in step.after:
        upstream = before[name]
        grid = upstream.step.grid
        needed = Grid(read.intersect(grid.roi), grid.block, grid.anchor)
        if needed.roi.n_voxels:
            low = _position(grid, needed.first)
            part = tuple(slice(a, a + n) for a, n in zip(low, needed.counts, strict=True))
            if not upstream.mask[part].all():
                return False
    return keys.key(step.name, index) == key


def _position(grid: Grid, index: Triple) -> Triple:
    return triple(i - f for i, f in zip(index, grid.first, strict=True))


def _gone(store: Store, step: Step) -> list[str]:
    """What a step wrote and is not there any more, in words."""
    before: Mapping[str, int] = recorded(store, step.name).get("objects", {})
    lost = []
    for output in step.outputs:
        n = len(store.list(output))
        expected = max(1, before.get(output, 1))
        if n < expected:
            lost.append(
                f"{output} is gone" if not n else f"{expected - n} objects of {output} are gone"
            )
    return lost


def _changes(store: Store, step: Step) -> list[str]:
    """How a step differs from what it was when it was recorded, in words."""
    before = recorded(store, step.name)
    if not before:
        return []
    changes = []
    if before["version"] != step.version:
        changes.append(f"the step's code changed, version {before['version']} to {step.version}")
    old, new = _flat(before["params"]), _flat(essence(step))
    return changes + [
        f"{name} changed from {old.get(name)} to {new.get(name)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters by dotted name, each value as short text."""
    flat: dict[str, str] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            text = json.dumps(value)
            flat[prefix + name] = text if len(text) <= 60 else text[:57] + "..."
    return flat


def _follows(step: Step, before: Mapping[str, Review]) -> list[str]:
    redone = [name for name in step.after if before[name].done < before[name].total]
    if redone:
        return [f"follows from {', '.join(redone)}"]
    return ["the volume, the region of interest or the input changed"]
