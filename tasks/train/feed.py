"""Batches of crops, made ahead of the network by other processes, in the order of steps.

Workers make whole batches, in turn; a crop is a function of its step and index,
so that it does not matter which worker makes it. Where no worker is asked for,
a thread of this process makes the batches. Either way a thread takes them in,
a few ahead, so that the loop seldom waits.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tasks.train.worker import PATIENCE, Worker

if TYPE_CHECKING:
    from tasks.train.crops import Crops, Sample

AHEAD = 2
"""Batches that wait for the network, beside those that workers have ready."""


class Feed:
    """An endless iterator over batches; a context manager, which ends the workers.

    Parameters
    ----------
    crops : Crops
    batch : int
        Crops per batch.
    first_step : int
        Step of the first batch.
    workers : int
        Processes; 0 for a thread.
    rank, world_size : int
        Of this process among those that learn together: its crops are those of
        index ``rank * batch …`` in the step's batch over all processes.

    Attributes
    ----------
    waited : float
        Seconds that the iterator has waited, the first batch aside (for that
        one, workers start).
    """

    def __init__(
        self,
        crops: Crops,
        batch: int,
        first_step: int = 0,
        *,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not one of {world_size} processes")
        self.waited = 0.0
        self._crops, self._step, self._count = crops, first_step, workers
        self._indices = range(rank * batch, (rank + 1) * batch)
        self._workers: list[Worker] = []
        self._ready: queue.Queue[Sample | Exception] = queue.Queue(AHEAD)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="feed", daemon=True)
        self._begun = False

    def __enter__(self) -> Self:
        try:
            for _ in range(self._count):
                self._workers.append(Worker(self._crops))
        except BaseException:
            self.close()
            raise
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Sample:
        """The batch of the next step.

        Raises
        ------
        RapheError
            What went wrong with a crop; `RunError` where it was no error of Raphe's
            own, or where a worker died.
        """
        began = time.monotonic()
        found = self._ready.get()
        if self._begun:
            self.waited += time.monotonic() - began
        self._begun = True
        if isinstance(found, Exception):
            # Whoever asks again is told again, rather than left waiting.
            self._ready.put(found)
            raise found
        return found

    def close(self) -> None:
        """End the workers, whatever they are doing."""
        self._over.set()
        for worker in self._workers:
            worker.end()
        # Without workers there is nothing that the thread could wait for, but its own crop.
        if self._thread.is_alive():
            self._thread.join(PATIENCE)
        for worker in self._workers:
            worker.close()

    def _fill(self) -> None:
        """Take batches in until it is over; an error is the last thing to be taken in."""
        try:
            for found in self._batches():
                if not self._put(found):
                    return
        except Exception as error:  # noqa: BLE001 - raised by the iterator
            self._put(error)

    def _put(self, found: Sample | Exception) -> bool:
        while not self._over.is_set():
            with suppress(queue.Full):
                self._ready.put(found, timeout=0.1)
                return True
        return False

    def _batches(self) -> Iterator[Sample]:
        if not self._workers:
            while not self._over.is_set():
                yield self._crops.batch(self._step, self._indices)
                self._step += 1
            return
        for number, worker in enumerate(self._workers):
            worker.ask(self._step + number, self._indices)
        while not self._over.is_set():
            for worker in self._workers:
                found = worker.answer()
                worker.ask(self._step + len(self._workers), self._indices)
                self._step += 1
                yield found
