"""Progress of a training: a live line on a terminal, plain lines otherwise."""

from __future__ import annotations

import time
from collections import defaultdict
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

PLAIN_SECONDS = 30.0
"""Seconds between lines where there is no terminal."""

_MEMORY = 0.98
"""Losses are shown as moving averages with this decay."""


class Report:
    """Says how the training goes; use it as a context manager.

    Parameters
    ----------
    steps : int
        Steps of the whole training, if it is not ended by the clock.
    console : Console, optional
        Where to say it.
    """

    def __init__(self, steps: int, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.steps = steps
        self._losses: dict[str, float] = defaultdict(float)
        self._weight = 0.0
        self._said = time.monotonic()
        self._live = Progress(
            TextColumn("training"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._live.add_task("training", total=1.0, text="")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def step(self, step: int, share: float, losses: dict[str, float]) -> None:
        """Take note of a step, of how far the training is, and of the heads' losses."""
        self._weight = _MEMORY * self._weight + 1 - _MEMORY
        for name, loss in losses.items():
            self._losses[name] += (1 - _MEMORY) * (loss - self._losses[name])
        text = f"step {step} of at most {self.steps}, loss " + ", ".join(
            f"{name} {value / self._weight:.3f}" for name, value in self._losses.items()
        )
        self._live.update(self._task, completed=share, text=text)
        now = time.monotonic()
        if not self.console.is_terminal and now - self._said >= PLAIN_SECONDS:
            self.console.print(f"{share:4.0%} {text}", soft_wrap=True)
            self._said = now

    def validation(self, step: int, scores: dict[str, float]) -> None:
        """Say the scores of a validation."""
        text = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        self.console.print(f"step {step}: validation {text}", soft_wrap=True)
