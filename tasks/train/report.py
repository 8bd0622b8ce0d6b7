"""Progress of a training: a live line on a terminal, plain lines otherwise, and TensorBoard.

Losses are read from the device once a second at most, since reading waits for it.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from matplotlib.image import imread
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from pipeline.errors import RunError

PLAIN_SECONDS = 30.0
"""Seconds between lines where there is no terminal."""

READ_SECONDS = 1.0
"""Seconds between readings of the losses."""

_MEMORY = 0.9
"""Losses are shown as moving averages over readings with this decay."""


class Report:
    """Says how the training goes; use it as a context manager.

    Parameters
    ----------
    steps, first : int
        Steps of the whole training, if it is not ended by the clock, and those done before.
    crops, voxels : int
        Of one step, of all processes.
    logs : Path
        Folder of TensorBoard's files.
    console : Console, optional
        Where to say it.
    """

    def __init__(
        self,
        steps: int,
        first: int,
        crops: int,
        voxels: int,
        logs: Path,
        console: Console | None = None,
    ) -> None:
        self.console = console or Console(highlight=False)
        self.steps, self.crops, self.voxels = steps, crops, voxels
        self._unread: list[dict[str, Tensor]] = []
        self._shown: dict[str, float] = {}
        self._read = self._said = time.monotonic()
        self._waited = 0.0
        self._text = ""
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
        # What was logged after the checkpoint that training goes on from is hidden.
        self._board = SummaryWriter(str(logs), purge_step=first)

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
        self._board.close()

    def step(
        self, step: int, share: float, rate: float, losses: dict[str, Tensor], waited: float
    ) -> None:
        """Take note of a step.

        Parameters
        ----------
        step : int
            Steps done.
        share, rate : float
            How far the training is, and its learning rate.
        losses : dict of Tensor
            Scalars, on any device.
        waited : float
            Seconds that the whole training has waited for data.

        Raises
        ------
        RunError
            If a loss is no number.
        """
        self._unread.append(losses)
        now = time.monotonic()
        if now - self._read < READ_SECONDS and share < 1:
            return
        seconds = max(now - self._read, 1e-9)
        means = _means(self._unread, step)
        per_second = len(self._unread) / seconds
        speed = {
            "crops_per_second": per_second * self.crops,
            "megavoxels_per_second": per_second * self.voxels / 1e6,
            "waiting_share": min(1.0, (waited - self._waited) / seconds),
        }
        self._unread, self._read, self._waited = [], now, waited
        for name, value in {"learning_rate": rate, **speed, **means}.items():
            group = "loss" if name in means and name != "gradient" else "training"
            self._board.add_scalar(f"{group}/{name}", value, step)
        self._say(step, share, means, speed)

    def check(self, step: int) -> None:
        """Refuse losses that are no numbers, among those that were not read yet.

        Raises
        ------
        RunError
            If a loss is no number.
        """
        if self._unread:
            _means(self._unread, step)

    def _say(
        self, step: int, share: float, means: Mapping[str, float], speed: Mapping[str, float]
    ) -> None:
        for name, value in means.items():
            self._shown[name] = _MEMORY * self._shown.get(name, value) + (1 - _MEMORY) * value
        self._text = f"step {step} of at most {self.steps}, loss " + ", ".join(
            f"{name} {value:.3f}" for name, value in self._shown.items() if name != "gradient"
        )
        self._text += (
            f"; {speed['crops_per_second']:.2f} crops/s, "
            f"{speed['megavoxels_per_second']:.3f} Mvoxel/s, "
            f"{speed['waiting_share']:.0%} waiting for data"
        )
        self._live.update(self._task, completed=share, text=self._text)
        now = time.monotonic()
        if not self.console.is_terminal and now - self._said >= PLAIN_SECONDS:
            self.console.print(f"{share:4.0%} {self._text}", soft_wrap=True)
            self._said = now

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, soft_wrap=True, markup=False)

    def validation(
        self, step: int, scores: Mapping[str, float], settings: list[dict[str, float]], png: bytes
    ) -> None:
        """Say the best scores of a validation; log those of all settings, and the picture."""
        best = ", ".join(f"{name} {value:g}" for name, value in scores.items() if name != "step")
        self.say(f"step {step}: validation {best}")
        for found in settings:
            where = f"threshold_{found['threshold']:g}_absorb_{found['absorb_size']:g}"
            for name, value in _scalars(found).items():
                self._board.add_scalar(f"{where}/{name}", value, step)
        for name, value in _scalars(scores).items():
            self._board.add_scalar(f"validation/{name}", value, step)
        picture: Any = np.asarray(imread(io.BytesIO(png)))[..., :3]
        self._board.add_image("validation", picture, step, dataformats="HWC")
        self._board.flush()
        # A validation is no time of training.
        self._read = time.monotonic()
        self._unread = []


def _scalars(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: scores[name] for name in ("voi_split", "voi_merge", "adapted_rand_error")} | {
        "voi": scores["voi_split"] + scores["voi_merge"]
    }


def _means(unread: list[dict[str, Tensor]], step: int) -> dict[str, float]:
    names = list(unread[0])
    table = torch.stack([torch.stack([each[name].float() for name in names]) for each in unread])
    means = dict(zip(names, table.mean(0).tolist(), strict=True))
    if wrong := [name for name, mean in means.items() if not np.isfinite(mean)]:
        raise RunError(
            f"at step {step} {', '.join(wrong)} is no number: training diverged. Lower "
            "optimiser.learning_rate or optimiser.clip, and train from the last checkpoint (run "
            "the same command again) or from the beginning (--restart)."
        )
    return means
