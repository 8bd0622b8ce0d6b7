"""What an output was made from and with; and what it may not be continued with.

``raphe.yaml`` is the configuration as resolved, ``provenance.json`` says
versions, command, hashes and times. The *frame* in it is what cannot change
while an output lives: the input, its voxels, and the blocks it is cut into.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import yaml

from pipeline.errors import ConfigError
from pipeline.fingerprint import canonical, fingerprint
from pipeline.geometry import Box, triple
from pipeline.steps import Job, Step
from pipeline.store import Store

PROVENANCE = "provenance.json"
_PACKAGES = ("raphe", "numpy", "tensorstore", "numba", "daisy", "distributed", "torch")
_FOREIGN = {
    ".zarray": "a zarr v2 array",
    ".zgroup": "a zarr v2 group",
    "attributes.json": "an N5 container",
    "info": "a precomputed volume",
}
"""What an object says that other formats keep."""

_RUNS = 100
"""Runs on one output that are remembered."""


def check_continuable(store: Store, job: Job) -> None:
    """Refuse an output that was made in a way that this run cannot continue.

    Raises
    ------
    ConfigError
        Naming what differs.
    """
    record = _read(store)
    if not record:
        return
    old, new = record["frame"], _frame(job)
    for name in ("input", "voxel_size", "translation", "block", "kind"):
        if old[name] != new[name]:
            raise ConfigError(
                f"output {job.config.output!r} was made with another {name.replace('_', ' ')}: "
                f"{json.dumps(old[name])}, now {json.dumps(new[name])}. "
                "Choose another output, or delete this one."
            )
    before = Box(triple(old["roi"][0]), triple(old["roi"][1]))
    if not job.roi.contains(before):
        raise ConfigError(
            f"output {job.config.output!r} holds voxels from {before.offset} to {before.end}, and "
            f"the region of interest is now from {job.roi.offset} to {job.roi.end}: what lies "
            "outside would remain. Choose another output, or delete this one; only a region that "
            "contains the old one can be continued."
        )


def check_place(store: Store, output: str) -> None:
    """Refuse an output that is something else already, which a run would make unreadable.

    Inside a group of zarr v3 a run may write: what the group says of itself is kept.

    Raises
    ------
    ConfigError
        Naming what is there.
    """
    found = [what for name, what in _FOREIGN.items() if store.read(name) is not None]
    if json.loads(store.read("zarr.json") or b"{}").get("node_type") == "array":
        found.append("a zarr v3 array")
    if found:
        raise ConfigError(
            f"output {output!r} is {found[0]} already, and a run makes a zarr v3 group of its "
            "output. Choose another output, such as a new folder beside it."
        )


def write_provenance(store: Store, job: Job, steps: Sequence[Step]) -> None:
    """Write the configuration as resolved, and who makes what from what."""
    config = job.config.model_dump(mode="json")
    record = {
        "frame": _frame(job),
        "identity": dict(job.identity),
        "shape": job.shape,
        "model": next((s.params["weights"] for s in steps if "weights" in s.params), None),
        "steps": {step.name: fingerprint(step) for step in steps},
        "configuration": hashlib.sha256(canonical(config)).hexdigest(),
        "runs": [*_read(store).get("runs", []), _this_run()][-_RUNS:],
    }
    store.write("raphe.yaml", yaml.safe_dump(config, sort_keys=False).encode())
    store.write(PROVENANCE, json.dumps(record, indent=1).encode())


def _this_run() -> dict[str, Any]:
    return {
        "time": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "command": sys.argv,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
    }


def _frame(job: Job) -> dict[str, Any]:
    given = job.identity.get("input", job.identity)
    frame: Mapping[str, Any] = {
        # An array that was written anew at the same place is redone, not refused.
        "input": {name: value for name, value in given.items() if name != "first_chunk"},
        "kind": "raw" if job.config.raw is not None else "affinities",
        "voxel_size": job.voxel_size,
        "translation": job.translation,
        "block": job.config.block,
        "roi": [job.roi.offset, job.roi.shape],
    }
    plain: dict[str, Any] = json.loads(canonical(frame))
    return plain


def _read(store: Store) -> dict[str, Any]:
    record: dict[str, Any] = store.read_json(PROVENANCE) or {}
    return record
