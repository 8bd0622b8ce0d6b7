"""What a worker does: the blocks of one batch, each with its own fate.

Invariant: a block's done marker is written after everything else that the
block writes, and only if its step did not raise. One block's error does not
touch the others of its batch.
"""

from __future__ import annotations

import time
import traceback
from collections import Counter
from dataclasses import dataclass, field

from distributed import get_worker

from pipeline.done import encode_marker, marker
from pipeline.geometry import Block, Box, Triple
from pipeline.steps import Params, Process
from pipeline.store import open_store

STARTED = "raphe-started"
"""Topic on which a worker says that it has begun with a batch."""

Item = tuple[Triple, Triple, Triple, str]
"""Index, offset and shape of a block, and its key."""


@dataclass(frozen=True)
class Work:
    """Some blocks of one step, as they travel to a worker."""

    output: str
    step: str
    process: Process
    params: Params
    items: tuple[Item, ...]


@dataclass
class Outcome:
    """How the blocks of a batch ended; `errors` has the traceback by position."""

    worker: str
    errors: dict[int, str] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)


def run_on_worker(work: Work, key: str) -> Outcome:
    """Run a batch on a Dask worker, which first says that it has begun."""
    worker = get_worker()
    worker.log_event(STARTED, key)
    return run_batch(work, str(worker.address))


def run_batch(work: Work, worker: str) -> Outcome:
    """Run the blocks of a batch in turn and mark those done that are."""
    outcome = Outcome(worker)
    markers: list[tuple[str, bytes]] = []
    for position, (index, offset, shape, key) in enumerate(work.items):
        block = Block(index, Box(offset, shape))
        begin = time.perf_counter()
        try:
            counters = work.process(work.params, block) or {}
        except Exception:  # noqa: BLE001 - kept whole: the driver records it and tries again
            outcome.errors[position] = traceback.format_exc()
            continue
        seconds = time.perf_counter() - begin
        outcome.counters.update(counters)
        data = encode_marker(key, seconds, counters)
        markers.append((marker(work.step, block.name, key), data))
    open_store(work.output).write_many(markers)
    return outcome
