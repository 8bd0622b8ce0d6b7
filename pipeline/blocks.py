"""Which block of which step may start: daisy's dependency graph over the steps.

Invariant: a block is handed out once, when every block of the steps in its
`Step.after` that shares a voxel with what it reads is done; blocks that need
one that failed are never handed out. Everything here belongs to one thread.

Limits: memory is some 150 bytes a block. A block with context costs daisy a
look at 27 x 27 neighbours, about 0.3 ms; one without costs 20 µs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import daisy.v2 as daisy

from pipeline.done import Mask
from pipeline.errors import ConfigError
from pipeline.geometry import Box, Grid, Triple, triple
from pipeline.steps import Step

FAN = 4
"""Blocks along an axis that one gathering block stands for."""


@dataclass(frozen=True)
class Ticket:
    """A block that was handed out; give it back with `Blocks.release`."""

    step: str
    index: Triple
    handle: Any


class Blocks:
    """The blocks of all steps, handed out in an order that the dependencies allow.

    Parameters
    ----------
    steps : sequence of Step
        Every step after those that it needs; see `check_order`.
    masks : mapping of str to ndarray
        The blocks of each step that are done and are not handed out.
    """

    def __init__(self, steps: Sequence[Step], masks: Mapping[str, Mask]) -> None:
        self._grids = {step.name: step.grid for step in steps}
        self._gather: list[str] = []
        self._gathered = 0
        tasks = {step.name: _task(step, masks[step.name]) for step in steps}
        edges: list[tuple[daisy.Task, daisy.Task]] = []
        for step in steps:
            for name in _direct(step, steps):
                last = tasks[name]
                for gather in _gathering(self._grids[name], step.grid, name):
                    if gather.task_id not in tasks:
                        tasks[gather.task_id] = gather
                        self._gather.append(gather.task_id)
                        edges.append((last, gather))
                    last = tasks[gather.task_id]
                edges.append((last, tasks[step.name]))
        self._scheduler = daisy.Scheduler(daisy.Pipeline(list(tasks.values()), edges))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # daisy's scheduler must be dropped by the thread that made it; left to
        # the garbage collector, it may be dropped by any.
        del self._scheduler

    def acquire(self, step: str) -> Ticket | None:
        """A block of `step` that may start now, or None."""
        handle = self._scheduler.acquire_block(step)
        if handle is None:
            return None
        grid = self._grids[step]
        begin = zip(handle.write_roi.offset, grid.anchor, grid.block, strict=True)
        return Ticket(step, triple((int(o) - a) // b for o, a, b in begin), handle)

    def release(self, ticket: Ticket, *, done: bool) -> None:
        """Say how a block ended; once only, since daisy would count it twice."""
        self._release(ticket.handle, done=done)

    def passed(self) -> int:
        """Blocks that daisy went by without handing them out, after going by some more.

        It goes by blocks that are done only when it looks for one that is not,
        and more may start after that: ask all steps again until this stands still.
        """
        for name in self._gather:
            while (handle := self._scheduler.acquire_block(name)) is not None:
                self._release(handle, done=True)
                self._gathered += 1
        states = self._scheduler.task_states
        return self._gathered + sum(int(states[name].skipped_count) for name in self._grids)

    def _release(self, handle: Any, *, done: bool) -> None:
        # daisy panics, past every `except Exception`, on a status that was never set.
        handle.status = daisy.BlockStatus.SUCCESS if done else daisy.BlockStatus.FAILED
        self._scheduler.release_block(handle)

    def orphans(self) -> dict[str, int]:
        """Blocks of each step that were never handed out, because what they need failed."""
        states = self._scheduler.task_states
        return {name: int(states[name].orphaned_count) for name in self._grids}

    def unfinished(self) -> list[str]:
        """Steps with blocks that are neither done, nor failed, nor orphans."""
        states = self._scheduler.task_states
        return [name for name in self._grids if not states[name].is_done()]


def check_order(steps: Sequence[Step]) -> None:
    """Refuse steps of the same name, and steps that come before what they need.

    Raises
    ------
    ConfigError
        Naming the step.
    """
    known: set[str] = set()
    for step in steps:
        if step.name in known:
            raise ConfigError(f"two steps are called {step.name!r}; names of steps must differ")
        missing = [name for name in step.after if name not in known]
        if missing:
            raise ConfigError(
                f"step {step.name!r} needs {', '.join(map(repr, missing))}, which no step before "
                f"it is called; the steps are {', '.join(each.name for each in steps)}"
            )
        known.add(step.name)


def _task(step: Step, mask: Mask) -> daisy.Task:
    # daisy 2.0 never hands out blocks that read further on one side than on
    # the other (it looks for dependants with the context the wrong way
    # round). Reading equally far both ways only waits for more than it must.
    context = triple(max(pair) for pair in zip(step.lower, step.upper, strict=True))
    return _daisy_task(step.name, step.grid, context, mask)


def _daisy_task(name: str, grid: Grid, context: Triple, mask: Mask | None) -> daisy.Task:
    first, total = grid.whole(grid.first), _extent(grid)
    write = daisy.Roi(first.offset, first.shape)
    return daisy.Task(
        name,
        daisy.Roi(total.offset, total.shape).grow(context, context),
        write.grow(context, context),
        write,
        read_write_conflict=False,
        max_retries=0,
        timeout=None,
        skip_mask=mask,
    )


def _extent(grid: Grid) -> Box:
    """The grid's blocks before they are clipped to the region of interest."""
    first = grid.whole(grid.first)
    shape = triple(n * b for n, b in zip(grid.counts, grid.block, strict=True))
    return Box(first.offset, shape)


def _direct(step: Step, steps: Sequence[Step]) -> list[str]:
    """`step.after` without what is implied by another one of them.

    If the node of an octree waits for its children, and these waited for all
    stitched blocks inside them, then it need not wait for those again: daisy
    looks at every block that is waited for at every release. This holds
    between grids that cover the same voxels.
    """
    roi = step.grid.roi
    same = {each.name: each for each in steps if each.grid.roi == roi}
    implied: set[str] = set()
    stack = [name for each in step.after if each in same for name in same[each].after]
    while stack:
        name = stack.pop()
        if name in same and name not in implied:
            implied.add(name)
            stack.extend(same[name].after)
    return [name for name in step.after if name not in implied]


def _gathering(source: Grid, target: Grid, name: str) -> Iterator[daisy.Task]:
    """Tasks without work between a fine grid and a much coarser one.

    A block that waits for n others costs daisy n looks at each of n releases.
    Through a tree of gathering blocks, this grows like n and not like n².
    """
    size = source.block
    while math.prod(-(-t // s) for t, s in zip(target.block, size, strict=True)) > FAN**3:
        size = triple(s * FAN for s in size)
        anchor = source.whole(source.first).offset
        grid = Grid(source.roi, size, anchor)
        yield _daisy_task(f"{name}@{'x'.join(map(str, size))}", grid, (0, 0, 0), None)
