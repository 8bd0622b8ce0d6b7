"""What is kept of a training: the best model, the checkpoint, the pictures.

The model directory holds the best moving average by variation of information,
with the threshold and absorb size that it was best at, and not the last one;
its record is of all of the training.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import get_args

import safetensors.torch
from torch import Tensor

from pipeline.config import Predict
from pipeline.errors import ConfigError
from pipeline.store import open_store
from tasks.networks.model import WEIGHTS, Defaults, Description, read_description, save_model
from tasks.train.config import Training
from tasks.train.report import Report
from tasks.train.state import CHECKPOINT, State, save
from tasks.train.validate import Scores, validate, voi

HEADS = get_args(Predict.model_fields["output"].annotation)
"""Heads that a run can segment, by their usual names."""

PICTURES = "pictures"
"""Folder of the pictures of validations, in the output."""


class Keeper:
    """Scores and writes what it is time for.

    Parameters
    ----------
    config : Training
    description : Description
        Of the model, but for what validation finds.
    state : State
        Of the training, as it goes on; scores are added to it.

    Raises
    ------
    ConfigError
        If the best model so far is gone.
    """

    def __init__(self, config: Training, description: Description, state: State) -> None:
        self.config, self.description, self.state = config, description, state
        self._saved = state.seconds
        best = Path(config.output) / WEIGHTS
        if state.scores and not best.exists():
            raise ConfigError(
                f"there is no {best}, which was the best model of the training that {CHECKPOINT} "
                "beside it goes on with; put it back, or train from the beginning with --restart"
            )

    def keep(self, share: float, report: Report) -> None:
        """Score and write what it is time for, at a progress `share`; the checkpoint comes last.

        Raises
        ------
        RunError
            If training diverged.
        """
        state, wanted = self.state, self.config.validate_
        due = wanted.steps is not None and state.step % wanted.steps == 0
        if wanted.minutes is not None:
            due |= state.seconds - state.validated >= 60 * wanted.minutes
        due = share >= 1 or (due and state.step >= wanted.after)
        if not due and state.seconds - self._saved < 60 * self.config.checkpoint_minutes:
            return
        # What is not a number must not replace what training can go on from.
        report.check(state.step)
        if due:
            began = time.monotonic()
            self._validate(report)
            # Its own time is none between validations, or a slow one would follow every step.
            state.seconds += time.monotonic() - began
            state.validated = state.seconds
        save(state, self.config)
        self._saved = state.seconds

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
        picture = f"{PICTURES}/step-{state.step:06d}.png"
        open_store(config.output).write(picture, found.picture)
        if best_score(state.scores) is state.scores[-1]:
            defaults = _defaults(config, found.best)
        else:
            weights = safetensors.torch.load_file(folder / WEIGHTS)
            defaults = read_description(folder).defaults
        self._save_model(weights, defaults)

    def _save_model(self, weights: dict[str, Tensor], defaults: Defaults) -> None:
        state = self.state
        record = {
            "steps": state.step,
            "best_step": best_score(state.scores)["step"],
            "minutes": round(state.seconds / 60, 1),
            "validation": state.scores,
            "configuration": self.config.model_dump(mode="json"),
        }
        changes = {"defaults": defaults, "training": record}
        described = self.description.model_copy(update=changes)
        save_model(Path(self.config.output), described, weights, half=True)


def _defaults(config: Training, best: Scores) -> Defaults:
    """How the model was scored best, which is how runs are to use it."""
    if (head := config.scored_head()) not in HEADS:
        return Defaults()  # of a head that no run segments
    segment = config.validate_.segment.model_dump(mode="json", exclude_unset=True)
    segment |= {name: best[name] for name in ("threshold", "absorb_size")}
    return Defaults(segment=segment, predict={"tta": config.validate_.tta, "output": head})


def best_score(scores: list[Scores]) -> Scores:
    """The validation of least variation of information, the first of those that are equal."""
    return min(scores, key=voi)


def is_exhausted(config: Training, scores: list[Scores]) -> bool:
    """Whether the last validations, as many as `early_stop` says, have all been no better."""
    if config.early_stop is None or not scores:
        return False
    best = best_score(scores)
    since = next(i for i, found in enumerate(reversed(scores)) if found is best)
    return since >= config.early_stop
