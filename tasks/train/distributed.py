"""One training by several processes, as torchrun starts them.

Every process learns from its own crops and the gradients are averaged, so that
all have the same weights at any time. The first process alone validates,
writes and logs; what the clock or a score decides is its decision, which the
others are told over gloo, whatever the gradients take.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.errors import ConfigError
from tasks.networks.predictor import find_device

PATIENCE = timedelta(hours=6)
"""How long processes wait for the first one, which may validate a large volume. If it
dies, torchrun ends them."""


@dataclass(frozen=True)
class Team:
    """The processes of a training, seen from one of them.

    Attributes
    ----------
    rank, size : int
        Of this process, and how many there are.
    device : torch.device
        What this process computes on.
    control : ProcessGroup or None
        Over which the first process tells the others what it decided.
    """

    rank: int
    size: int
    device: torch.device
    control: distributed.ProcessGroup | None = None

    @property
    def leads(self) -> bool:
        """Whether this process validates, writes and logs."""
        return self.rank == 0

    def told(self, *values: float) -> tuple[float, ...]:
        """The values that the first process has, on all; all must ask."""
        if self.control is None:
            return values
        message = torch.tensor(values, dtype=torch.float64)
        distributed.broadcast(message, 0, group=self.control)
        return tuple(message.tolist())

    def spread(self, module: nn.Module) -> nn.Module:
        """The module, with gradients averaged over all processes."""
        if self.control is None:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices)


@contextmanager
def team(device: str) -> Iterator[Team]:
    """Join the processes that the environment speaks of (RANK, WORLD_SIZE, LOCAL_RANK).

    Raises
    ------
    ConfigError
        If `device` is ``cuda``, and there is none, or fewer than processes.
    """
    found = find_device(device)
    if found.type == "cuda":
        # All crops have one shape: it pays to try which convolution is quickest.
        torch.backends.cudnn.benchmark = True
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team(0, 1, found)
        return
    if found.type == "cuda":
        local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= count:
            raise ConfigError(
                f"torchrun started more processes than the {count} GPUs that torch finds here; "
                f"use --nproc-per-node {count}, or device: cpu"
            )
        found = torch.device("cuda", local)
        torch.cuda.set_device(found)
    distributed.init_process_group("nccl" if found.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        control = distributed.new_group(backend="gloo", timeout=PATIENCE)
        yield Team(distributed.get_rank(), size, found, control)
    finally:
        distributed.destroy_process_group()


def is_first() -> bool:
    """Whether this is the only process, or the first of several, by the environment."""
    return os.environ.get("RANK", "0") == "0"
