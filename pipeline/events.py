"""What happened during a run, as lines of JSON that are kept with the output.

On a file system lines are appended to ``events.jsonl``. Object stores cannot
append: there, each run writes numbered objects ``events/<run>-<n>.jsonl``.
Blocks that go well leave only their done markers; everything else is here.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pipeline.remedies import storage_errors
from pipeline.store import Store

_LINES = 200
"""Lines that an object store receives at a time."""


class Events:
    """Appends events to the output of a run.

    Parameters
    ----------
    store : Store
        The output.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._run = time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + f"-{os.getpid()}"
        self._part = 0
        self._lines: list[str] = []
        self._path = _local(store)

    def write(self, event: str, **values: Any) -> None:
        """Append one event; `values` are plain JSON."""
        self._lines.append(json.dumps({"time": round(time.time(), 3), "event": event, **values}))
        if self._path is not None or len(self._lines) >= _LINES:
            self.flush()

    def flush(self) -> None:
        """Hand on what has been written so far."""
        if not self._lines:
            return
        text = "\n".join(self._lines) + "\n"
        self._lines.clear()
        if self._path is not None:
            with storage_errors("append to", str(self._path)):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(text)
        else:
            self._store.write(f"events/{self._run}-{self._part:06d}.jsonl", text.encode())
            self._part += 1


def last_events(store: Store, count: int) -> list[dict[str, Any]]:
    """The last `count` events, the oldest first. A line cut short by a crash is left out."""
    path = _local(store)
    lines: deque[str] = deque(maxlen=count)
    if path is not None:
        if path.exists():
            with path.open(encoding="utf-8") as file:
                lines.extend(line for line in file if line.endswith("}\n"))
    else:
        for name in store.list("events/")[-count:]:
            lines.extend((store.read(name) or b"").decode().splitlines())
    return [json.loads(line) for line in lines]


def _local(store: Store) -> Path | None:
    parts = urlsplit(store.url)
    return Path(unquote(parts.path)) / "events.jsonl" if parts.scheme == "file" else None
