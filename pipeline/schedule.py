"""The schedule: blocks that may start go to the cluster, and come back.

Invariants: every block that daisy hands out is given back to it exactly once;
a block that fails is tried again `Config.retries` times, then what depends on
it is left out and everything else goes on; nothing is kept of a block that is
done, so memory does not grow with their number.

A worker that dies takes with it what it ran and what waited on it. Only what
it ran (workers say what they begin) counts as tried; the rest is sent again.
"""

from __future__ import annotations

import itertools
import queue
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from distributed import Client, Future, KilledWorker

from pipeline.batch import STARTED, Outcome, Work, run_on_worker
from pipeline.blocks import Blocks, Ticket
from pipeline.clusters import Workers
from pipeline.errors import RunError
from pipeline.faults import Faults
from pipeline.fingerprint import Keys
from pipeline.geometry import Triple, block_name
from pipeline.progress import Progress
from pipeline.steps import Step

WINDOW = 3
"""Batches in flight for each slot: one runs, the others hide the way to and fro."""

BATCH = 64
"""Blocks of a trivial step that travel together."""

LOSSES = 10
"""How often a block is sent again that waited on a worker when that died."""

GRACE = 10.0
"""Seconds that running blocks are given to end after Ctrl-C."""


@dataclass
class Attempt:
    """A block in the driver's hands: how often it was tried, and lost on its way."""

    ticket: Ticket
    tried: int = 0
    lost: int = 0


@dataclass(frozen=True)
class Flight:
    """A batch on the cluster."""

    future: Future
    attempts: list[Attempt]
    resource: str


class Schedule:
    """Runs the blocks of steps on a cluster, in an order that their needs allow.

    Parameters
    ----------
    output : str
        Where markers go.
    steps : sequence of Step
        Every step after those that it needs.
    blocks : Blocks
        What may start.
    keys : Keys
        Keys of the done markers.
    workers : Workers
        The cluster.
    retries : int
        How often a block that raised is tried again.
    progress : Progress
        Is told how blocks end.
    faults : Faults
        Is told why blocks fail.
    stopping : callable
        Says whether the run shall stop.
    """

    def __init__(
        self,
        output: str,
        steps: Sequence[Step],
        blocks: Blocks,
        keys: Keys,
        workers: Workers,
        *,
        retries: int,
        progress: Progress,
        faults: Faults,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._output, self._blocks, self._keys = output, blocks, keys
        self._steps = {step.name: step for step in steps}
        self._client: Client = workers.client
        self._room = {name: WINDOW * n for name, n in workers.slots.items()}
        self._retries, self._progress, self._faults = retries, progress, faults
        self._stopping = stopping
        self._flights: dict[str, Flight] = {}
        self._begun: set[str] = set()
        self._prepared: set[str] = set()
        self._again: deque[Attempt] = deque()
        self._landed: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self._number = itertools.count()

    def run(self) -> None:
        """Run everything that is not done; failed blocks are in `Faults`.

        Raises
        ------
        KeyboardInterrupt
            If it was asked to stop; what runs has then ended or been given up.
        """
        self._client.subscribe_topic(STARTED, self._has_begun)
        self._submit()
        while self._flights and not self._stopping():
            self._land(self._landings(0.2))
            self._submit()
        if self._stopping():
            self._stop()
            raise KeyboardInterrupt
        unfinished = self._blocks.unfinished()
        if unfinished:
            raise RunError(
                f"nothing of the steps {', '.join(unfinished)} may start though blocks are left; "
                "this is a defect of the schedule. Run the same command again to continue."
            )

    def _submit(self) -> None:
        """Fill the cluster, later steps first, so that what is begun gets finished."""
        for attempt in self._taken(self._again):
            self._send([attempt])
        before = -1
        while (passed := self._blocks.passed()) != before:
            before = passed
            for step in reversed(self._steps.values()):
                while self._room[step.resource] > 0 and (attempts := self._acquire(step)):
                    self._send(attempts)

    @staticmethod
    def _taken(attempts: deque[Attempt]) -> Iterator[Attempt]:
        while attempts:
            yield attempts.popleft()

    def _acquire(self, step: Step) -> list[Attempt]:
        limit = BATCH if step.trivial else 1
        found: list[Attempt] = []
        while len(found) < limit and (ticket := self._blocks.acquire(step.name)) is not None:
            found.append(Attempt(ticket))
        return found

    def _send(self, attempts: list[Attempt]) -> None:
        first = attempts[0]
        step = self._steps[first.ticket.step]
        if step.name not in self._prepared:
            if step.prepare is not None:
                step.prepare(step.params)
            self._prepared.add(step.name)
            self._progress.started(step.name)
        items = tuple(self._item(step, attempt.ticket.index) for attempt in attempts)
        work = Work(self._output, step.name, step.process, step.params, items)
        name = block_name(first.ticket.index)
        key = f"{step.name}-{name}-{first.tried + first.lost}-{next(self._number)}"
        future = self._client.submit(
            run_on_worker,
            work,
            key,
            key=key,
            retries=0,
            pure=False,
            resources={step.resource: 1},
            priority=list(self._steps).index(step.name),
        )
        self._room[step.resource] -= 1
        self._flights[key] = Flight(future, attempts, step.resource)
        future.add_done_callback(self._landed.put)

    def _item(self, step: Step, index: Triple) -> tuple[Triple, Triple, Triple, str]:
        box = step.grid.at(index).box
        return index, box.offset, box.shape, self._keys.key(step.name, index)

    def _has_begun(self, event: tuple[float, str]) -> None:
        key = event[1]
        if key in self._flights:
            self._begun.add(key)

    def _landings(self, timeout: float) -> list[Future]:
        """The batches that came back since; waits for the first one."""
        try:
            found = [self._landed.get(timeout=timeout)]
        except queue.Empty:
            return []
        while not self._landed.empty():
            found.append(self._landed.get())
        return found

    def _land(self, futures: list[Future]) -> None:
        # All outcomes at once: each call to the cluster costs milliseconds.
        # One that is lost with its worker is run again; it is None if that one dies, too.
        finished = {future.key: future for future in futures if future.status == "finished"}
        outcomes: dict[str, Outcome | None] = self._client.gather(finished, errors="skip")
        for future in futures:
            outcome = outcomes.get(future.key)
            flight = self._flights.pop(future.key, None)
            if flight is None:
                continue
            self._room[flight.resource] += 1
            begun = future.key in self._begun
            self._begun.discard(future.key)
            if outcome is not None:
                self._ended(flight, outcome)
            else:
                self._crashed(flight, future, begun=begun)
            future.release()

    def _ended(self, flight: Flight, outcome: Outcome) -> None:
        for position, attempt in enumerate(flight.attempts):
            error = outcome.errors.get(position)
            if error is None:
                self._close(attempt)
            else:
                self._failed(attempt, error, outcome.worker)
        self._progress.count(flight.attempts[0].ticket.step, outcome.counters)

    def _crashed(self, flight: Flight, future: Future, *, begun: bool) -> None:
        """A batch without an outcome: its worker died, or could not run it at all."""
        reason = "cancelled" if future.cancelled() else repr(future.exception())
        died = future.cancelled() or isinstance(future.exception(), KilledWorker)
        if died:
            reason = (
                f"the worker died while it ran this block ({reason}): it was killed, or it needed "
                "more memory than cluster.memory_gib allows"
            )
        for attempt in flight.attempts:
            if died and not begun and attempt.lost < LOSSES:
                attempt.lost += 1
                self._again.append(attempt)
            else:
                self._failed(attempt, reason, "lost" if died else "driver")

    def _failed(self, attempt: Attempt, error: str, worker: str) -> None:
        ticket, final = attempt.ticket, attempt.tried >= self._retries
        attempt.tried += 1
        step = self._steps[ticket.step]
        self._faults.record(step, ticket.index, attempt.tried, error, worker, final=final)
        if final:
            self._blocks.release(ticket, done=False)
            self._progress.failed(ticket.step)
        else:
            self._again.append(attempt)

    def _close(self, attempt: Attempt) -> None:
        ticket = attempt.ticket
        self._blocks.release(ticket, done=True)
        self._faults.resolve(ticket.step, ticket.index)
        self._progress.done(ticket.step, self._steps[ticket.step].grid.at(ticket.index).box)

    def _stop(self) -> None:
        """Cancel what has not begun, and wait a little for what has."""
        waiting = [f.future for key, f in self._flights.items() if key not in self._begun]
        self._client.cancel(waiting, force=True)
        for future in waiting:
            self._flights.pop(future.key, None)
        end = time.monotonic() + GRACE
        while self._flights and time.monotonic() < end:
            self._land(self._landings(0.2))
            self._again.clear()
