"""Why blocks failed, kept with the output as ``errors/<step>/<block>.json``.

A block that went well in the end keeps its record, marked as resolved. Memory
and objects grow with the number of blocks that failed, not of all blocks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from pipeline.events import Events
from pipeline.fingerprint import essence
from pipeline.geometry import Triple, block_name
from pipeline.steps import Step
from pipeline.store import Store


class Faults:
    """The failed blocks of a run, and those of earlier ones that are still open.

    Parameters
    ----------
    store : Store
        The output.
    events : Events
        Is told of every failed attempt.

    Attributes
    ----------
    failed : dict
        ``step/block`` of every block that failed for good in this run, and the
        last line of its error.
    """

    def __init__(self, store: Store, events: Events) -> None:
        self._store, self._events = store, events
        self.failed: dict[str, str] = {}
        self._open = set(store.list("errors/"))

    def record(
        self, step: Step, index: Triple, attempt: int, error: str, worker: str, *, final: bool
    ) -> None:
        """Keep the error of an attempt; `final` if there is no other one."""
        block = block_name(index)
        name = f"errors/{step.name}/{block}.json"
        record = {
            "step": step.name,
            "block": block,
            "attempt": attempt,
            "resolved": False,
            "worker": worker,
            "time": time.time(),
            "params": essence(step),
            "error": error,
        }
        self._store.write(name, json.dumps(record, indent=1).encode())
        self._open.add(name)
        reason = error.strip().splitlines()[-1] if error.strip() else "no reason was given"
        event = "block failed" if final else "block is tried again"
        self._events.write(event, step=step.name, block=block, attempt=attempt, reason=reason)
        if final:
            self.failed[f"{step.name}/{block}"] = reason

    def resolve(self, step: str, index: Triple) -> None:
        """A block is done: if it failed before, say so in its record."""
        if not self._open:
            return
        name = f"errors/{step}/{block_name(index)}.json"
        if name in self._open:
            self._open.discard(name)
            record: dict[str, Any] = self._store.read_json(name) or {}
            record["resolved"] = True
            self._store.write(name, json.dumps(record, indent=1).encode())


def open_faults(store: Store) -> list[dict[str, Any]]:
    """The records of blocks that failed and were not done since."""
    records = (store.read_json(name) or {} for name in store.list("errors/"))
    return [record for record in records if not record.get("resolved", True)]


def failures(faults: Faults, orphans: Mapping[str, int]) -> str:
    """What to tell a user whose run could not finish."""
    lines = [f"  {name}: {reason}" for name, reason in faults.failed.items()][:10]
    if len(faults.failed) > len(lines):
        lines.append(f"  ... and {len(faults.failed) - len(lines)} more")
    left = ", ".join(f"{n} of {name}" for name, n in orphans.items() if n)
    return (
        f"{len(faults.failed)} blocks failed:\n"
        + "\n".join(lines)
        + (f"\nBlocks that depend on them were not run: {left}." if left else "")
        + "\nTheir errors are under errors/ in the output, and `raphe status` shows them. "
        "Remove the cause, then run the same command again: it continues with these blocks."
    )
