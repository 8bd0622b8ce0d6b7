"""Processes that make batches of crops, one thread each.

They are new ones, since TensorStore does not survive a fork, and they are
asked for one batch at a time through a pipe, whose end is theirs, too.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING

from pipeline import errors
from pipeline.errors import RapheError, RunError

if TYPE_CHECKING:
    from tasks.train.crops import Crops, Sample

PATIENCE = 5.0
"""Seconds that a process is given to end."""

_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
}


class Worker:
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
            What went wrong with it; `RunError` where it was no error of Raphe's own, or
            where the process died.
        """
        try:
            found: Sample | Failure = self._here.recv()
        except (EOFError, OSError) as error:
            self._process.join(PATIENCE)
            raise RunError(
                f"a process that makes crops ended with exit code {self._process.exitcode}; if "
                "the machine ran out of memory, set fewer workers"
            ) from error
        if isinstance(found, Failure):
            raise found.error()
        return found

    def end(self) -> None:
        """End the process, so that nobody waits for its answer any more."""
        self._process.terminate()

    def close(self) -> None:
        """Wait for the end, and close the pipe, which nobody may be reading from."""
        self._process.join(PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._here.close()


class Failure:
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
                found: Sample | Failure = crops.batch(step, indices)
            except Exception as error:  # noqa: BLE001 - raised by the driver
                found = Failure(error)
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
