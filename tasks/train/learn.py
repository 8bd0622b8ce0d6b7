"""One step of training: losses, gradients, weights, their moving average.

A step is a function of the state, the batch and its own number: whatever draws
random numbers inside the network draws those of the step, so that training
resumes exactly.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from tasks.parts import Lesson, Module
from tasks.train.config import Training
from tasks.train.distributed import Team
from tasks.train.finetune import set_training
from tasks.train.state import State

Batch = dict[str, Tensor]


class Deep(nn.Module):
    """A network whose `forward` is `deep`, which is what gradients are averaged over."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        """Logits of every head, finest first."""
        return cast(Module, self.network).deep(x)


class Learner:
    """Takes steps.

    Parameters
    ----------
    config : Training
    state : State
        Changed in place by every step.
    team : Team
        The processes that learn together.
    """

    def __init__(self, config: Training, state: State, team: Team) -> None:
        self.config, self.state, self.team = config, state, team
        set_training(state.network)
        self._network = team.spread(Deep(state.network))
        self._trained = [p for p in state.network.parameters() if p.requires_grad]
        self._done: Any = None
        if team.device.type == "cuda":
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def step(self, batch: Batch, rate: float) -> dict[str, Tensor]:
        """Learn from one batch.

        Parameters
        ----------
        batch : dict of Tensor
            What `Crops.sample` gives, stacked, on the device.
        rate : float
            The learning rate.

        Returns
        -------
        dict of Tensor
            Scalars on the device: every head's losses on the finest level, unweighted,
            as ``<head>.<kind>``, and ``gradient``, the norm before it is clipped.
        """
        config, state = self.config, self.state
        entropy = np.random.SeedSequence([config.seed, state.step, self.team.rank])
        torch.manual_seed(int(entropy.generate_state(1)[0]))
        raw = batch["raw"].contiguous(memory_format=torch.channels_last_3d)
        kind = self.team.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=config.precision == "bfloat16"):
            outputs = self._network(raw)
        parts, total = losses(config, outputs, batch)
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        state.optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self._trained, config.optimiser.clip)
        state.optimiser.step()
        self._average()
        state.step += 1
        if self._done is not None:
            self._done.record()
        return {name: part.detach() for name, part in parts.items()} | {"gradient": norm.detach()}

    def is_idle(self) -> bool:
        """Whether the device has done all steps that it was given."""
        return self._done is None or bool(self._done.query())

    @torch.no_grad()
    def _average(self) -> None:
        state = self.state
        # A young average must not remember the weights that it began with.
        decay = min(self.config.optimiser.ema, (1 + state.step) / (10 + state.step))
        own = state.network.state_dict()
        for name, average in state.average.state_dict().items():
            if average.is_floating_point():
                average.lerp_(own[name], 1 - decay)
            else:
                average.copy_(own[name])


def losses(
    config: Training, outputs: list[dict[str, Tensor]], batch: Batch
) -> tuple[dict[str, Tensor], Tensor]:
    """The losses of the finest level by head and kind, and the weighted sum of all.

    Raises
    ------
    ConfigError
        If there are more weights of deep supervision than levels with an output.
    """
    weights = config.deep_supervision
    if len(weights) != len(outputs):
        raise ConfigError(
            f"deep_supervision has {len(weights)} weights, and the network has "
            f"{len(outputs)} levels with an output; give one weight for each"
        )
    parts: dict[str, Tensor] = {}
    terms = []
    for level, (weight, logits) in enumerate(zip(weights, outputs, strict=True)):
        for name, head in config.heads.items():
            lesson = Lesson(batch[name], batch[f"{name}.known"], batch["labels"], head)
            for loss in config.losses[name]:
                value = loss(logits[name], lesson)
                terms.append(weight * loss.weight * value)
                if level == 0:
                    parts[f"{name}.{loss.kind}"] = value
    return parts, torch.stack(terms).sum()
