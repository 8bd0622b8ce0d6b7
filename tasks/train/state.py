"""What changes while training goes on, and checkpoints of it.

A checkpoint is one safetensors file, replaced as a whole: weights, their moving
average, the optimiser's moments, and as JSON in its header the step, the time
used, the configuration and the scores so far. Crops are functions of the seed
and the step, so there is no state of a random generator to keep.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from tasks.networks.predictor import find_device
from tasks.networks.unet import Unet
from tasks.train.config import Training

CHECKPOINT = "checkpoint.safetensors"

_MAY_CHANGE = {"output", "steps", "minutes", "validate_minutes", "device", "licence", "credit"}
"""Fields that a training may go on with in another value."""


@dataclass
class State:
    """Everything that a step changes.

    Parameters
    ----------
    network, average : Unet
        The trained weights and their moving average.
    optimiser : AdamW
    step : int
        Steps done.
    seconds : float
        Time used, in all parts of a training that was interrupted.
    scores : list of dict
        One for each validation.
    """

    network: Unet
    average: Unet
    optimiser: torch.optim.AdamW
    step: int = 0
    seconds: float = 0.0
    scores: list[dict[str, float]] = field(default_factory=list)


def create(config: Training) -> State:
    """The state before the first step, the same for the same seed."""
    torch.manual_seed(config.seed)
    channels = {name: head.channels for name, head in config.heads.items()}
    network = Unet(config.architecture, channels, plain=False).to(find_device(config.device))
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    # Gains and biases are not decayed, nor the convolution whose weights see raw data.
    kernels = [p for p in network.parameters() if p.ndim == 5 and p.shape[1] > 1]
    decayed = {id(parameter) for parameter in kernels}
    optimiser = torch.optim.AdamW(
        [
            {"params": kernels, "weight_decay": config.optimiser.weight_decay},
            {
                "params": [p for p in network.parameters() if id(p) not in decayed],
                "weight_decay": 0.0,
            },
        ],
        lr=config.optimiser.learning_rate,
    )
    return State(network, copy.deepcopy(network).requires_grad_(False), optimiser)


def save(state: State, config: Training) -> None:
    """Replace the checkpoint in the output of `config`."""
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "config": config.model_dump(mode="json"),
        "step": state.step,
        "seconds": state.seconds,
        "scores": state.scores,
    }
    partial = folder / f"{CHECKPOINT}.partial"
    safetensors.torch.save_file(_tensors(state), partial, {"state": json.dumps(record)})
    partial.replace(folder / CHECKPOINT)


def resume(config: Training) -> State:
    """The state of the checkpoint in the output of `config`, or a new one if there is none.

    Raises
    ------
    ConfigError
        If the checkpoint is damaged or was made with another configuration.
    """
    state = create(config)
    path = Path(config.output) / CHECKPOINT
    if not path.exists():
        return state
    try:
        with safetensors.safe_open(path, "pt") as stream:
            record = json.loads(stream.metadata()["state"])
            _check_same(path, record["config"], config.model_dump(mode="json"))
            _restore(state, {name: stream.get_tensor(name) for name in stream.keys()})  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise ConfigError(
            f"{path} is damaged ({error}); delete it to train from the beginning"
        ) from error
    state.step, state.seconds = record["step"], record["seconds"]
    state.scores = record["scores"]
    return state


def _check_same(path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    differing = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if changed := [name for name in differing if name not in _MAY_CHANGE]:
        raise ConfigError(
            f"{path} was made with another configuration: {', '.join(changed)} changed. "
            "Choose another output, or train from the beginning with --restart."
        )


def _tensors(state: State) -> dict[str, Tensor]:
    found = {f"network.{name}": value for name, value in state.network.state_dict().items()}
    found |= {f"average.{name}": value for name, value in state.average.state_dict().items()}
    for index, moments in state.optimiser.state_dict()["state"].items():
        found |= {f"optimiser.{index}.{name}": value for name, value in moments.items()}
    return {name: value.detach().cpu().contiguous() for name, value in found.items()}


def _restore(state: State, tensors: dict[str, Tensor]) -> None:
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "optimiser": {}}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    state.network.load_state_dict(parts["network"])
    state.average.load_state_dict(parts["average"])
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in parts["optimiser"].items():
        index, _, key = name.partition(".")
        moments.setdefault(int(index), {})[key] = value
    groups = state.optimiser.state_dict()["param_groups"]
    state.optimiser.load_state_dict({"state": moments, "param_groups": groups})
