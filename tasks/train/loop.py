"""The training loop: steps, validations, checkpoints, and when it ends.

The model directory holds the best moving average by variation of information,
not the last one, and the checkpoint what training goes on from.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from rich.console import Console
from torch import Tensor

from tasks.networks.model import WEIGHTS, Description, read_description, save_model
from tasks.train.config import Training
from tasks.train.crops import Crops
from tasks.train.data import normalisation
from tasks.train.distributed import Team, team
from tasks.train.feed import Feed
from tasks.train.learn import Learner
from tasks.train.report import Report
from tasks.train.schedule import learning_rate, progress
from tasks.train.state import State, resume, save
from tasks.train.validate import check_validation, validate

LOGS = "logs"
"""Folder of TensorBoard's files, in the output."""

PICTURES = "pictures"
"""Folder of the pictures of validations, in the output."""


def train(config: Training, console: Console | None = None) -> Path:
    """Train until the configured steps or minutes are over, from a checkpoint if there is one.

    Returns
    -------
    Path
        The model directory. Its weights are the best moving average, folded for prediction.

    Raises
    ------
    ConfigError
        If the data or the checkpoint do not fit the configuration.
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
        self.saved = state.seconds

    def run(self) -> None:
        config, state = self.config, self.state
        share = self._share()
        share, over = self.team.told(share, share >= 1 or is_exhausted(config, state))
        if over:
            return
        learner = Learner(config, state, self.team)
        began = time.monotonic() - state.seconds
        with self._feed() as feed, self._report() as report:
            for batch in feed:
                rate = learning_rate(config.optimiser, state.step, share)
                losses = learner.step(tensors(batch, self.team.device), share)
                state.seconds = time.monotonic() - began
                share = self._share()
                if report is not None:
                    report.step(state.step, share, rate, losses, feed.waited)
                    self._keep(share, report)
                    over = share >= 1 or is_exhausted(config, state)
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

    def _keep(self, share: float, report: Report) -> None:
        """Score and write what it is time for; the checkpoint comes last."""
        state, wanted = self.state, self.config.validate_
        due = wanted.steps is not None and state.step % wanted.steps == 0
        if wanted.minutes is not None:
            due |= state.seconds - state.validated >= 60 * wanted.minutes
        if share >= 1 or (due and state.step >= wanted.after):
            self._validate(report)
            state.validated = state.seconds
        elif state.seconds - self.saved < 60 * self.config.checkpoint_minutes:
            return
        save(state, self.config)
        self.saved = state.seconds

    def _validate(self, report: Report) -> None:
        config, state, folder = self.config, self.state, Path(self.config.output)
        weights = config.network.folded(state.average)
        # What is scored is what is written: float16.
        weights = {name: tensor.cpu().half().float() for name, tensor in weights.items()}
        network = config.network.build(self.description.channels(), plain=True)
        network.load_state_dict(weights)
        found = validate(config, self.description, network.eval())
        state.scores.append({"step": state.step} | found.best)
        report.validation(state.step, state.scores[-1], found.settings, found.picture)
        write_file(folder / PICTURES / f"step-{state.step:06d}.png", found.picture)
        best = best_score(state.scores)
        decoding = {name: found.best[name] for name in ("threshold", "absorb_size")}
        if best is not state.scores[-1]:
            weights = safetensors.torch.load_file(folder / WEIGHTS)
            decoding = read_description(folder).decoding
        record = {
            "steps": state.step,
            "best_step": best["step"],
            "minutes": round(state.seconds / 60, 1),
            "validation": state.scores,
            "configuration": config.model_dump(mode="json"),
        }
        changes = {"decoding": decoding, "training": record}
        save_model(folder, self.description.model_copy(update=changes), weights, half=True)


def best_score(scores: list[dict[str, float]]) -> dict[str, float]:
    """The validation of least variation of information, the first of those that are equal."""
    return min(scores, key=lambda found: round(found["voi_split"] + found["voi_merge"], 4))


def is_exhausted(config: Training, state: State) -> bool:
    """Whether the last validations that `early_stop` allows have all been no better."""
    if config.early_stop is None or not state.scores:
        return False
    best = best_score(state.scores)
    since = next(i for i, found in enumerate(reversed(state.scores)) if found is best)
    return since >= config.early_stop


def tensors(batch: dict[str, Any], device: torch.device) -> dict[str, Tensor]:
    """A batch of arrays on the device."""
    found = {name: torch.from_numpy(array) for name, array in batch.items()}
    if device.type == "cuda":
        found = {name: tensor.pin_memory() for name, tensor in found.items()}
    return {name: tensor.to(device, non_blocking=True) for name, tensor in found.items()}


def write_file(path: Path, data: bytes) -> None:
    """Write a file as a whole, in a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(data)
    partial.replace(path)
