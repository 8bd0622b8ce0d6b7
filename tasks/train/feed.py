"""Batches of crops, made ahead of the network by other processes, in the order of steps.

Each worker is a new process (TensorStore does not survive a fork) with one
thread, and makes whole batches, in turn with the others; a crop is a function
of its step and index, so that it does not matter which worker makes it. Where
no worker is asked for, a thread of this process makes the batches. Either way
a thread takes them in, a few ahead, so that the loop seldom waits.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pipeline import errors
from pipeline.errors import RapheError, RunError

if TYPE_CHECKING:
    from tasks.train.crops import Crops, Sample

AHEAD = 2
"""Batches that wait for the network, beside those that workers have ready."""

_PATIENCE = 5.0
"""Seconds that a worker is given to end."""

_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
}


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
        self._workers: list[_Worker] = []
        self._ready: queue.Queue[Sample | Exception] = queue.Queue(AHEAD)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="feed", daemon=True)
        self._begun = False

    def __enter__(self) -> Self:
        try:
            for _ in range(self._count):
                self._workers.append(_Worker(self._crops))
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
            self._thread.join(_PATIENCE)
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


class _Worker:
    """A process that makes batches, one after the other."""

    def __init__(self, crops: Crops) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process: SpawnProcess = context.Process(
            target=_work, args=(there, crops), name="crops", daemon=True
        )
        with _environment(_ONE_THREAD), _interrupts_held():
            self._process.start()
        # Kept open here, the pipe would not tell that the worker is gone.
        there.close()

    def ask(self, step: int, indices: range) -> None:
        """Let it make a batch."""
        with suppress(BrokenPipeError):  # `answer` says why it is gone
            self._here.send((step, indices))

    def answer(self) -> Sample:
        """Wait for the batch that was asked for.

        Raises
        ------
        RapheError
            See `Feed.__next__`.
        """
        try:
            found: Sample | _Failure = self._here.recv()
        except (EOFError, OSError) as error:
            self._process.join(_PATIENCE)
            raise RunError(
                f"a process that makes crops ended with exit code {self._process.exitcode}; if "
                "the machine ran out of memory, set fewer workers"
            ) from error
        if isinstance(found, _Failure):
            raise found.error()
        return found

    def end(self) -> None:
        """End the process, so that nobody waits for its answer any more."""
        self._process.terminate()

    def close(self) -> None:
        """Wait for the end, and close the pipe, which nobody may be reading from."""
        self._process.join(_PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._here.close()


class _Failure:
    """An error as it is sent to another process, where its class may not be known."""

    def __init__(self, error: Exception) -> None:
        self.name, self.message = type(error).__name__, str(error)
        self.is_ours = isinstance(error, RapheError)
        self.trace = "".join(traceback.format_exception(error))

    def error(self) -> RapheError:
        """The error, to be raised here."""
        if self.is_ours:
            kind: type[RapheError] = getattr(errors, self.name, RunError)
            return kind(self.message)
        return RunError(
            f"a process that makes crops failed: {self.name}: {self.message}\n{self.trace}"
        )


def _work(connection: Connection, crops: Crops) -> None:
    """Make the batches that are asked for, until nobody asks any more."""
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            step, indices = connection.recv()
            try:
                found: Sample | _Failure = crops.batch(step, indices)
            except Exception as error:  # noqa: BLE001 - raised by the driver
                found = _Failure(error)
            connection.send(found)


@contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """Environment variables as a new process shall find them; libraries here have read theirs."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back from a process that is started; a terminal sends it to all of them."""
    # Its start, which would come with the first process, lets signals through at its end.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
