"""How far a run is: one live line a step, or plain lines where nobody watches.

On a terminal every step has a line with blocks done, Mvoxel/s and the time
left. Elsewhere a line is printed for a step when it begins, now and then, and
when it ends. The same counts make the `RunSummary`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.table import Table

from pipeline.geometry import Box
from pipeline.steps import Step

PLAIN_INTERVAL = 10.0
"""Seconds between two plain lines of the same step."""


@dataclass
class StepProgress:
    """How far one step is.

    Parameters
    ----------
    name : str
        Name of the step.
    total, skipped, done, failed, orphaned : int
        Blocks: all, done before this run, done in it, failed for good, and
        not run because what they need failed.
    voxels : int
        Voxels of the blocks done in this run.
    first, last : float
        When the first block started and the last one ended, in seconds.
    counters : Counter
        Sums of what the blocks counted (``bytes_read``, …).
    """

    name: str
    total: int
    skipped: int = 0
    done: int = 0
    failed: int = 0
    orphaned: int = 0
    voxels: int = 0
    first: float = 0.0
    last: float = 0.0
    counters: Counter[str] = field(default_factory=Counter)

    @property
    def seconds(self) -> float:
        """From the start of the first block to the end of the last one."""
        return max(0.0, self.last - self.first)

    @property
    def left(self) -> int:
        """Blocks that are neither done nor failed."""
        return self.total - self.skipped - self.done - self.failed

    def line(self, now: float) -> str:
        """One line: blocks done, speed, time left."""
        text = f"{self.skipped + self.done}/{self.total} blocks"
        elapsed = (now if self.left else self.last) - self.first
        if self.done and elapsed > 0:
            text += f", {self.voxels / elapsed / 1e6:.2f} Mvoxel/s"
            text += f", {_clock(self.left * elapsed / self.done)} left" if self.left else ""
        if not self.left and self.done:
            text += f", {_clock(self.seconds)}"
        return text + (f", {self.failed} failed" if self.failed else "")


class Progress:
    """Counts how blocks end, and shows it.

    Parameters
    ----------
    steps : sequence of Step
        All steps of the run.
    skipped : mapping of str to int
        Blocks of each step that were done before.
    console : rich.console.Console
        Where it is shown.
    """

    def __init__(self, steps: Sequence[Step], skipped: Mapping[str, int], console: Console) -> None:
        self.steps = {
            step.name: StepProgress(step.name, len(step.grid), skipped.get(step.name, 0))
            for step in steps
        }
        self._console = console
        self._live: Live | None = None
        self._shown: dict[str, float] = {}

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the lines while the run goes on."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, get_renderable=self._table, refresh_per_second=4) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def started(self, step: str) -> None:
        """The first block of a step is sent off."""
        self.steps[step].first = time.monotonic()
        self._plain(self.steps[step], "starts")

    def done(self, step: str, box: Box) -> None:
        """A block is done."""
        state = self.steps[step]
        state.done += 1
        state.voxels += box.n_voxels
        state.last = time.monotonic()
        if not state.left or state.last - self._shown.get(step, 0.0) > PLAIN_INTERVAL:
            self._plain(state, state.line(state.last))

    def failed(self, step: str) -> None:
        """A block failed for good."""
        state = self.steps[step]
        state.failed += 1
        state.last = time.monotonic()
        self._plain(state, state.line(state.last))

    def count(self, step: str, counters: Mapping[str, int]) -> None:
        """Add what blocks counted."""
        self.steps[step].counters.update(counters)

    def _plain(self, state: StepProgress, text: str) -> None:
        self._shown[state.name] = time.monotonic()
        if not self._console.is_terminal:
            self._console.print(f"{state.name}: {text}", markup=False, highlight=False)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        now = time.monotonic()
        for state in self.steps.values():
            table.add_row(state.name, state.line(now) if state.first else _waiting(state))
        return table


def _waiting(state: StepProgress) -> str:
    return f"{state.skipped}/{state.total} blocks"


def _clock(seconds: float) -> str:
    """Seconds as h:mm:ss.

    Examples
    --------
    >>> _clock(75), _clock(3601)
    ('1:15', '1:00:01')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
