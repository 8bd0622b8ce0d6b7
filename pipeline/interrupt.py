"""Ctrl-C: once to stop in good order, twice to stop at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible(console: Console) -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a request; yields whether there was one.

    The second one acts as it always does. Signals reach only the main thread:
    a run in another thread is not interruptible by them.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def ask(_number: int, _frame: FrameType | None) -> None:
        asked.set()
        for number, handler in before.items():
            signal.signal(number, handler)
        console.print(
            "stopping: waiting a little for the blocks that run (again to stop at once)",
            markup=False,
            highlight=False,
        )

    for number in _SIGNALS:
        signal.signal(number, ask)
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
