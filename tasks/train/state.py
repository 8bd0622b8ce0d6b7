"""What changes while training goes on, and checkpoints of it.

A checkpoint is one safetensors file, replaced as a whole: weights, their moving
average, the optimiser's moments, and as JSON in its header the step, the time
used, the configuration and the scores so far. A step is a function of the
state, the seed and its own number, so there is no state of a random generator
to keep.
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
from torch import Tensor, nn

from pipeline.errors import ConfigError
from tasks.train.config import Training
from tasks.train.finetune import Loaded, freeze, load_initial

CHECKPOINT = "checkpoint.safetensors"

_MAY_CHANGE = {
    "output",
    "steps",
    "minutes",
    "validate",
    "device",
    "workers",
    "checkpoint_minutes",
    "early_stop",
    "licence",
    "credit",
}
"""Fields that a training may go on with in another value."""


@dataclass
class State:
    """Everything that a step changes.

    Parameters
    ----------
    network, average : Module
        The trained weights and their moving average.
    optimiser : AdamW
    loaded : Loaded or None
        What came from the model that `init` names.
    step : int
        Steps done.
    seconds, validated : float
        Time used, in all parts of a training that was interrupted, and when it was last scored.
    scores : list of dict
        The best setting of each validation.
    """

    network: nn.Module
    average: nn.Module
    optimiser: torch.optim.AdamW
    loaded: Loaded | None = None
    step: int = 0
    seconds: float = 0.0
    validated: float = 0.0
    scores: list[dict[str, float]] = field(default_factory=list)


def create(config: Training, device: torch.device | None = None) -> State:
    """The state before the first step, the same for the same seed.

    Raises
    ------
    ConfigError
        If a pattern of `freeze` meets no parameter.
    ModelError
        If there is no model `init`.
    """
    torch.manual_seed(config.seed)
    channels = {name: head.channels for name, head in config.heads.items()}
    network = config.network.build(channels, plain=False)
    loaded = load_initial(network, config.init) if config.init is not None else None
    freeze(network, config.freeze)
    network.to(device or torch.device("cpu"))
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    # Gains and biases are not decayed, nor the convolution whose weights see raw data.
    kernels = [p for p in trained if p.ndim == 5 and p.shape[1] > 1]
    decayed = {id(parameter) for parameter in kernels}
    options = config.optimiser
    groups = [
        {"params": kernels, "weight_decay": options.weight_decay},
        {"params": [p for p in trained if id(p) not in decayed], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=options.learning_rate, betas=options.betas)
    return State(network, copy.deepcopy(network).requires_grad_(False), optimiser, loaded)


def save(state: State, config: Training) -> None:
    """Replace the checkpoint in the output of `config`."""
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "config": config.model_dump(mode="json"),
        "step": state.step,
        "seconds": state.seconds,
        "validated": state.validated,
        "scores": state.scores,
    }
    partial = folder / f"{CHECKPOINT}.partial"
    safetensors.torch.save_file(_tensors(state), partial, {"state": json.dumps(record)})
    partial.replace(folder / CHECKPOINT)


def resume(config: Training, device: torch.device | None = None) -> State:
    """The state of the checkpoint in the output of `config`, or a new one if there is none.

    Raises
    ------
    ConfigError
        If the checkpoint is damaged or was made with another configuration.
    """
    path = Path(config.output) / CHECKPOINT
    if not path.exists():
        return create(config, device)
    # The checkpoint has all weights, also where the model that training began with is gone.
    state = create(config.model_copy(update={"init": None}), device)
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
    state.validated, state.scores = record["validated"], record["scores"]
    return state


def _check_same(path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    differing = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    changed = [name for name in differing if name not in _MAY_CHANGE]
    # The best model is that of the least score, and those of two heads cannot be compared.
    if old.get("validate", {}).get("head") != new["validate"]["head"]:
        changed.append("validate.head")
    if changed:
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
