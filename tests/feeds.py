"""Crops that workers can import, without volumes: some are slow, some fail, some die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import VolumeError


@dataclass
class Numbers:
    """Batches that say what was asked for, and of whom."""

    fails: int | None = None
    breaks: int | None = None
    dies: int | None = None
    sleep: float = 0.0

    def batch(self, step: int, indices: Sequence[int]) -> dict[str, npt.NDArray[Any]]:
        """The step, the indices, the process and the threads that its libraries may use."""
        time.sleep(self.sleep)
        if step == self.fails:
            raise VolumeError(f"step {step} cannot be read")
        if step == self.breaks:
            raise ZeroDivisionError(f"step {step} is broken")
        if step == self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        threads = os.environ.get("OMP_NUM_THREADS", "")
        return {
            "step": np.array([step]),
            "indices": np.array(indices),
            "process": np.array([os.getpid()]),
            "threads": np.array([threads]),
            "interruptible": np.array(
                [signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())]
            ),
        }
