"""Steps that add numbers, in files, importable by workers; a driver to be killed.

A block's number is the parameter `value` plus the numbers of the blocks that it
reads, so that the numbers at the end tell whether everything was run, after
what it needs, and with which parameters.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.config import Config
from pipeline.geometry import Block, Box, Grid, Triple, octree, triple
from pipeline.run import RunSummary, execute
from pipeline.steps import Job, Params, Step
from pipeline.store import Store, open_store


def nothing(params: Params, block: Block) -> None:
    """Do nothing."""


def add(params: Params, block: Block) -> dict[str, int]:
    """Write the block's number; fail, sleep or die on the way if told to."""
    store = open_store(params["output"])
    time.sleep(params["sleep"])
    _misbehave(params, block, Path(params["output"]))
    total = params["value"]
    for name, (roi, shape) in params["reads"].items():
        grid = Grid(Box(*map(triple, roi)), triple(shape))
        read = block.box.grow(triple(params["lower"]), triple(params["upper"]))
        for other in grid.overlapping(read):
            found = store.read(f"toys/{name}/{other.name}")
            if found is None:
                raise LookupError(f"{params['step']} {block.name} needs {name} {other.name}")
            total += json.loads(found)
    store.write(f"toys/{params['step']}/{block.name}", json.dumps(total).encode())
    return {"blocks": 1}


def _misbehave(params: Params, block: Block, output: Path) -> None:
    times = params["fails"].get(block.name, 0)
    if _count(output / f"tries-{params['step']}-{block.name}", times) < times:
        raise ValueError(f"no luck with {block.name}")
    times = params["kills"].get(block.name, 0)
    if _count(output / f"kills-{params['step']}-{block.name}", times) < times:
        time.sleep(0.1)  # what runs out of memory does not do so at once
        os.kill(os.getpid(), signal.SIGKILL)


def _count(path: Path, limit: int) -> int:
    """How often this was called before, if anybody wants to know."""
    if limit == 0:
        return 0
    before = int(path.read_text()) if path.exists() else 0
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(str(before + 1))
    return before


def surroundings() -> tuple[dict[str, str | None], bool, int]:
    """Of a worker: threads that libraries may use, whether it ignores Ctrl-C, its process."""
    names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    ignores = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return {name: os.environ.get(name) for name in names}, ignores, os.getpid()


def job(output: str, shape: Triple = (8, 8, 8), block: Triple = (4, 4, 4), **fields: Any) -> Job:
    """A job over a volume that nobody opens."""
    cluster = {"workers": 2, "processes": False} | fields.pop("cluster", {})
    identity = fields.pop("identity", {"input": {"url": "toy"}})
    config = Config(affinities="toy", output=output, block=block, cluster=cluster, **fields)
    roi = Box((0, 0, 0), shape)
    return Job(config, shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), roi, identity)


def step(made: Job, name: str, after: tuple[Step, ...] = (), **options: Any) -> Step:
    """A step that adds; `options` are parameters of it, or fields of `Step`."""
    fields = {key: options.pop(key) for key in list(options) if key in Step.__dataclass_fields__}
    grid = fields.pop("grid", made.grid)
    lower, upper = fields.get("lower", (0, 0, 0)), fields.get("upper", (0, 0, 0))
    params = {
        "output": made.config.output,
        "step": name,
        "value": 1,
        "sleep": 0,
        "fails": {},
        "kills": {},
        "lower": lower,
        "upper": upper,
        "reads": {
            each.name: [[each.grid.roi.offset, each.grid.roi.shape], each.grid.block]
            for each in after
        },
    }
    return Step(
        name,
        add,
        params | options,
        grid,
        after=tuple(each.name for each in after),
        paths=("output", "reads", "sleep", "fails", "kills"),
        outputs=(f"toys/{name}/",),
        **fields,
    )


def chain(made: Job, options: Mapping[str, Mapping[str, Any]] | None = None) -> list[Step]:
    """source → context (one voxel more on the upper sides) → an octree → end."""
    given = options or {}
    source = step(made, "source", **given.get("source", {}))
    context = step(made, "context", (source,), upper=(1, 1, 1), **given.get("context", {}))
    steps = [source, context]
    for level, grid in enumerate(octree(made.grid)):
        steps.append(step(made, f"up-{level}", (steps[-1],), grid=grid, **given.get("up", {})))
    return [*steps, step(made, "end", (source, steps[-1]), **given.get("end", {}))]


def numbers(output: str) -> dict[str, int]:
    """What the steps wrote."""
    store = Store(output)
    return {name: json.loads(store.read(name) or b"") for name in store.list("toys/")}


def run(made: Job, steps: list[Step]) -> tuple[RunSummary, str]:
    """Run steps; also returns what was printed."""
    text = StringIO()
    summary = execute(made, steps, console=Console(file=text, width=200))
    return summary, text.getvalue()


def main(output: str, sleep: str) -> None:
    """A driver with processes, for tests that kill it: python -m toys OUTPUT SLEEP."""
    # Ten kills may all meet the same block.
    made = job(output, shape=(16, 8, 8), cluster={"processes": True}, retries=10)
    slow = {name: {"sleep": float(sleep)} for name in ("source", "context", "up", "end")}
    execute(made, chain(made, slow), console=Console(stderr=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
