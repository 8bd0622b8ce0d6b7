"""The training loop: steps, moving average, validation, checkpoints.

The learning rate falls with progress, which is the larger of the share of
steps done and the share of minutes used, so that a slow machine trains less
but always ends with a small learning rate.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from tasks.networks.heads import AffinityHead
from tasks.networks.model import Description, save_model
from tasks.networks.unet import Unet, folded
from tasks.train.config import Training
from tasks.train.data import Crops, Sample, normalisation, open_truth
from tasks.train.losses import affinity_loss, distance_loss
from tasks.train.report import Report
from tasks.train.state import State, resume, save
from tasks.train.validate import check_validation, validate


def train(config: Training) -> Path:
    """Train until the configured steps or minutes are over, from a checkpoint if there is one.

    Returns
    -------
    Path
        The model directory. Its weights are the moving average, folded for prediction.

    Raises
    ------
    ConfigError
        If the data or the checkpoint do not fit the configuration.
    """
    volumes = [open_truth(truth, config) for truth in config.training]
    crops = Crops(config, volumes, normalisation(volumes))
    description = Description(
        architecture=config.architecture,
        heads=config.heads,
        voxel_size=config.voxel_size,
        dtype=crops.dtype,
        normalisation=crops.scaling,
        licence=config.licence,
        credit=config.credit,
    )
    check_validation(config, description)
    state = resume(config)
    before, saved, started = state.seconds, state.seconds, time.monotonic()
    with Report(config.steps) as report, ThreadPoolExecutor(1) as pool:
        pending = pool.submit(crops.batch, state.step)
        while (share := progress(config, state)) < 1:
            sample = pending.result()
            pending = pool.submit(crops.batch, state.step + 1)
            parts = update(config, state, sample, share)
            state.seconds = before + time.monotonic() - started
            share = progress(config, state)
            report.step(state.step, share, parts)
            if share == 1 or state.seconds - saved >= 60 * config.validate_minutes:
                keep(config, state, description, report)
                saved = state.seconds
    return Path(config.output)


def progress(config: Training, state: State) -> float:
    """How far the training is, 0 to 1."""
    share = state.step / config.steps
    if config.minutes is not None:
        share = max(share, state.seconds / (60 * config.minutes))
    return min(share, 1.0)


def learning_rate(config: Training, step: int, share: float) -> float:
    """Linear warm-up, then a cosine over the progress `share`."""
    rate = config.optimiser.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
    return rate * min(1.0, (step + 1) / config.optimiser.warmup)


def update(config: Training, state: State, sample: Sample, share: float) -> dict[str, float]:
    """One step; returns the loss of every head.

    Parameters
    ----------
    config : Training
    state : State
        Changed in place.
    sample : mapping of str to ndarray
        What `Crops.batch` gives.
    share : float
        Progress, from which the learning rate follows.
    """
    device = next(state.network.parameters()).device
    batch = {name: torch.from_numpy(array).to(device) for name, array in sample.items()}
    raw = batch["raw"].contiguous(memory_format=torch.channels_last_3d)
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        logits = state.network(raw)
    parts = losses(config, logits, batch)
    weighted = [config.weights.get(name, 1.0) * part for name, part in parts.items()]
    for group in state.optimiser.param_groups:
        group["lr"] = learning_rate(config, state.step, share)
    state.optimiser.zero_grad(set_to_none=True)
    torch.stack(weighted).sum().backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(state.network.parameters(), config.optimiser.clip)
    state.optimiser.step()
    # A young average must not remember the weights that it began with.
    decay = min(config.optimiser.ema, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        for average, value in zip(
            state.average.parameters(), state.network.parameters(), strict=True
        ):
            average.lerp_(value, 1 - decay)
    state.step += 1
    return {name: part.item() for name, part in parts.items()}


def losses(
    config: Training, logits: dict[str, Tensor], batch: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The loss of every head, unweighted."""
    found = {}
    for name, head in config.heads.items():
        target, known = batch[name], batch[f"{name}.known"]
        if isinstance(head, AffinityHead):
            found[name] = affinity_loss(
                logits[name], target, known, balance=config.balance, smoothing=config.smoothing
            )
        else:
            found[name] = distance_loss(logits[name], target, known, scale=head.scale)
    return found


def keep(config: Training, state: State, description: Description, report: Report) -> None:
    """Score the moving average, and write it as a model; the checkpoint comes last."""
    weights = folded(state.average)
    network = Unet(config.architecture, description.channels(), plain=True)
    network.load_state_dict(weights)
    scores = validate(config, description, network)
    state.scores.append({"step": state.step, **scores})
    report.validation(state.step, scores)
    record = {
        "steps": state.step,
        "minutes": round(state.seconds / 60, 1),
        "validation": state.scores,
        "configuration": config.model_dump(mode="json"),
    }
    trained = description.model_copy(update={"training": record})
    save_model(Path(config.output), trained, weights)
    save(state, config)
