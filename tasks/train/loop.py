"""The training loop: steps until it is over, with what is scored and written on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from pipeline.errors import ConfigError
from tasks.networks.model import Description
from tasks.train.config import Training
from tasks.train.crops import Crops
from tasks.train.data import normalisation
from tasks.train.distributed import Team, team
from tasks.train.feed import Feed
from tasks.train.keep import Keeper, is_exhausted
from tasks.train.learn import Learner
from tasks.train.report import Report
from tasks.train.schedule import learning_rate, progress
from tasks.train.state import State, resume
from tasks.train.validate import check_validation

LOGS = "logs"
"""Folder of TensorBoard's files, in the output."""


def train(config: Training, console: Console | None = None) -> Path:
    """Train until the configured steps or minutes are over, from a checkpoint if there is one.

    Returns
    -------
    Path
        The model directory. Its weights are the best moving average, folded for prediction.

    Raises
    ------
    ConfigError
        If the data or the checkpoint do not fit the configuration, or processes that learn
        together have not the same checkpoint.
    RunError
        If training diverged.
    """
    with team(config.device) as found:
        scaling, dtype = normalisation(config.training, config.voxel_size)
        description = Description(
            network=config.network,
            heads=config.heads,
            voxel_size=config.voxel_size,
            dtype=dtype,
            normalisation=scaling,
            licence=config.licence,
            credit=config.credit,
        )
        check_validation(config, description)
        state = resume(config, found.device)
        _Loop(config, description, state, found, console or Console(highlight=False)).run()
    return Path(config.output)


class _Loop:
    """A training that goes on from `state`."""

    def __init__(
        self,
        config: Training,
        description: Description,
        state: State,
        found: Team,
        console: Console,
    ) -> None:
        self.config, self.description, self.state, self.team = config, description, state, found
        self.console = console

    def run(self) -> None:
        config, state = self.config, self.state
        share = self._share()
        # Until it was scored there is no model, however little time is left.
        ended = bool(state.scores) and (share >= 1 or is_exhausted(config, state.scores))
        share, over, step = self.team.told(share, ended, state.step)
        if step != state.step:
            raise ConfigError(
                f"the first process goes on from step {step:g}, process {self.team.rank} from step "
                f"{state.step}: output {config.output!r} must be one folder that all see"
            )
        if over:
            return
        learner = Learner(config, state, self.team)
        keeper = Keeper(config, self.description, state)
        waited = before = 0.0
        began = time.monotonic() - state.seconds
        with self._feed() as feed, self._report() as report:
            for batch in feed:
                # A GPU that is still at work has not waited, though this process has.
                waited += (feed.waited - before) * learner.is_idle()
                before = feed.waited
                rate = learning_rate(config.optimiser, state.step, share)
                losses = learner.step(tensors(batch, self.team.device), rate)
                state.seconds = time.monotonic() - began
                share = self._share()
                if report is not None:
                    report.step(state.step, share, rate, losses, waited)
                    keeper.keep(share, report)
                    over = share >= 1 or is_exhausted(config, state.scores)
                # The others wait here while the first one validates.
                share, over = self.team.told(share, over)
                if over:
                    break

    def _share(self) -> float:
        return progress(self.config, self.state.step, self.state.seconds)

    def _feed(self) -> Feed:
        config = self.config
        crops = Crops(
            config.training,
            voxel_size=config.voxel_size,
            core=config.crop,
            context=config.network.context,
            heads=config.heads,
            augmentations=config.augmentations,
            scaling=self.description.normalisation,
            dust=config.dust,
            seed=config.seed,
        )
        return Feed(
            crops,
            batch=config.batch,
            first_step=self.state.step,
            workers=config.workers,
            rank=self.team.rank,
            world_size=self.team.size,
        )

    @contextmanager
    def _report(self) -> Iterator[Report | None]:
        """What says how it goes; nothing but in the first process."""
        if not self.team.leads:
            yield None
            return
        config = self.config
        crops = config.batch * self.team.size
        with Report(
            config.steps,
            self.state.step,
            crops,
            crops * math.prod(config.crop),
            Path(config.output) / LOGS,
            self.console,
        ) as report:
            if self.state.loaded is not None:
                report.say(self.state.loaded.describe())
            yield report


def tensors(batch: dict[str, Any], device: torch.device) -> dict[str, Tensor]:
    """A batch of arrays on the device."""
    found = {name: torch.from_numpy(array) for name, array in batch.items()}
    if device.type == "cuda":
        found = {name: tensor.pin_memory() for name, tensor in found.items()}
    return {name: tensor.to(device, non_blocking=True) for name, tensor in found.items()}
