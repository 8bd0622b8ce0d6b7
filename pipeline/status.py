"""How far a run is, from what lies in its output alone: no cluster, no input."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.done import markers, recorded, recorded_steps
from pipeline.errors import ConfigError
from pipeline.events import last_events
from pipeline.faults import open_faults
from pipeline.lock import LOCK, is_dead
from pipeline.store import open_store

_EVENTS = 8
_SHOWN = 10
"""Failed blocks that are shown with their errors."""


@dataclass(frozen=True)
class Status:
    """State of an output.

    Parameters
    ----------
    output : str
        Path or URL.
    holder : mapping or None
        Who holds the lock: ``host``, ``pid``, ``time``.
    steps : dict
        Step to (blocks done, blocks in all); None in all if the run that should
        have recorded them was stopped before it did.
    failed : list of mapping
        Records of the blocks that failed and were not done since.
    events : list of mapping
        What happened last, the oldest first.
    """

    output: str
    holder: dict[str, Any] | None
    steps: dict[str, tuple[int, int | None]]
    failed: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)


def read_status(output: str) -> Status:
    """Read the state of an output.

    Raises
    ------
    ConfigError
        If no run has written there.
    """
    store = open_store(output)
    names = recorded_steps(store)
    if not names:
        raise ConfigError(
            f"there is no run at {output!r}; give the output of a run (`output` in its "
            "configuration), or start one with `raphe run`"
        )
    return Status(
        output=output,
        holder=store.read_json(LOCK),
        steps={
            name: (len(markers(store, name)), recorded(store, name).get("blocks")) for name in names
        },
        failed=open_faults(store),
        events=last_events(store, _EVENTS),
    )


def render(status: Status, *, errors: bool = True) -> Iterator[RenderableType]:
    """The state as a table, the failed blocks with their errors, the last events."""
    table = Table(title=status.output, title_justify="left", box=None)
    for column, justify in (("step", "left"), ("done", "right"), ("blocks", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for name, (done, total) in status.steps.items():
        style = "green" if done == total else None
        table.add_row(name, str(done), "?" if total is None else str(total), style=style)
    yield table
    if status.holder:
        who = "process {pid} on {host} since {time}".format(**status.holder)
        dead = is_dead(status.holder)
        yield Text(f"killed: {who}; run it again to continue" if dead else f"running: {who}")
    for record in status.failed[:_SHOWN]:
        yield Text(f"failed: {record['step']}/{record['block']}, attempt {record['attempt']}")
        yield Text(record["error"] if errors else record["error"].strip().splitlines()[-1])
    if len(status.failed) > _SHOWN:
        yield Text(f"... and {len(status.failed) - _SHOWN} more under errors/")
    for event in status.events:
        yield Text(_line(event))


def _line(event: dict[str, Any]) -> str:
    """An event as a line: when, what, and what is said of it in plain values."""
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(event["time"]))
    values = (
        f"{name} {value}"
        for name, value in event.items()
        if name not in {"time", "event"} and not isinstance(value, dict)
    )
    return f"{when}  {', '.join([event['event'], *values])}"
