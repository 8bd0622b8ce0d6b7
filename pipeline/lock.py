"""One run at a time on an output: an object that says who is at it.

The lock of a process of this host that is dead is taken over. Whether a
process of another host is alive cannot be known from here: the error says
which object to delete.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from pipeline.errors import RunError
from pipeline.store import Store, parse_json

LOCK = "lock.json"


@contextmanager
def locked(store: Store) -> Iterator[None]:
    """Hold the lock of an output.

    Raises
    ------
    RunError
        If another run holds it.
    """
    mine = json.dumps(
        {
            "host": platform.node(),
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
            "time": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        }
    ).encode()

    def take(present: bytes | None) -> bytes:
        if present is not None:
            _refuse_if_alive(parse_json(present, f"{store.url}{LOCK}"), store)
        return mine

    store.update(LOCK, take)
    try:
        yield
    finally:
        if store.read(LOCK) == mine:
            store.delete(LOCK)


def _refuse_if_alive(holder: dict[str, Any], store: Store) -> None:
    if is_dead(holder):
        return
    here = holder["host"] == platform.node()
    raise RunError(
        f"another run writes to {store.url}: process {holder['pid']} on {holder['host']}, since "
        f"{holder['time']}. Wait until it ends"
        + ("." if here else f", or delete {store.url}{LOCK} if you know that it is dead.")
    )


def is_dead(holder: dict[str, Any]) -> bool:
    """Whether the process that took a lock is known to have ended without giving it back."""
    if holder["host"] != platform.node():
        return False
    try:
        process = psutil.Process(holder["pid"])
        # The number may have been given to another process since.
        same = abs(process.create_time() - holder["started"]) < 1
        return not same or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
