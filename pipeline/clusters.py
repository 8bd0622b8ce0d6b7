"""Where blocks run: a Dask cluster, its slots, and what its workers share.

Invariant: a slot runs one block at a time on one core. Each worker has one
slot of the resource ``CPU``. Where CUDA is found, each GPU adds one slot of
the resource ``GPU`` to one worker, with a thread of its own, so that CPU steps
go on beside it. Where there is none, every worker offers ``GPU: 1`` as a
stand-in beside its only thread: prediction then uses all workers.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any

import dask
from distributed import Client, Nanny, Scheduler, SpecCluster, Worker
from distributed.system import MEMORY_LIMIT

from pipeline.config import Cluster
from pipeline.errors import ConfigError, RunError
from pipeline.steps import Step

STARTS = 5
"""How often it is tried to start the workers."""

_SETTINGS = {
    # Results are a few bytes: there is nothing to spill. A worker near its
    # limit is ended and the block tried again, with that reason.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.98,
    # A batch that was on a lost worker comes back at once; the schedule decides.
    "distributed.scheduler.allowed-failures": 0,
    # A nanny whose worker is away for 15 s would be closed for good, though it is about
    # to replace it, or to replace that one: a run could be left with no workers at all.
    "distributed.deploy.lost-worker-timeout": "365 days",
    "distributed.scheduler.work-stealing": True,
    "distributed.admin.low-level-log-length": 1000,
    "distributed.comm.timeouts.connect": "30s",
}


@dataclass(frozen=True)
class Workers:
    """A running cluster: a client of it, and how many blocks run at a time."""

    client: Client
    slots: dict[str, int]


def memory_per_worker(cluster: Cluster) -> int:
    """Bytes that one worker may use: what is configured, or a share of the machine's."""
    if cluster.memory_gib is not None:
        return int(cluster.memory_gib * 2**30)
    return int(0.9 * MEMORY_LIMIT / cluster.workers)


def check_output(cluster: Cluster, output: str) -> None:
    """Refuse an output that the workers would not share with the driver.

    Raises
    ------
    ConfigError
        For ``memory://`` with processes.
    """
    if output.startswith("memory://") and cluster.processes:
        raise ConfigError(
            f"output {output!r} lies in the memory of one process, but cluster.processes is true, "
            "so that workers are others. Set cluster: {processes: false}, or write to a path."
        )


@contextmanager
def open_cluster(cluster: Cluster, steps: Sequence[Step]) -> Iterator[Workers]:
    """A cluster on this machine, reachable through loopback only, closed at the end."""
    gpus = _count_gpus() if any(step.resource == "GPU" for step in steps) else 0
    _quieten()
    with (
        tempfile.TemporaryDirectory(prefix="raphe-", ignore_cleanup_errors=True) as scratch,
        dask.config.set(_SETTINGS),
        _start(cluster, gpus, scratch) as running,
        Client(running) as client,
    ):
        yield Workers(
            client, {"CPU": cluster.workers, "GPU": min(gpus, cluster.workers) or cluster.workers}
        )


def _start(cluster: Cluster, gpus: int, scratch: str) -> SpecCluster:
    # A worker that dies later is replaced by its nanny; while it starts, all of them go.
    for _ in range(STARTS):
        try:
            with _interrupts_held():
                return SpecCluster(
                    workers={i: _worker(cluster, i, gpus, scratch) for i in range(cluster.workers)},
                    scheduler={
                        "cls": Scheduler,
                        "options": {
                            "host": "127.0.0.1",
                            "dashboard": False,
                            "dashboard_address": "127.0.0.1:0",
                        },
                    },
                    silence_logs=False,
                )
        except RuntimeError as error:
            reason = error
    raise RunError(
        f"{cluster.workers} workers could not be started, {STARTS} times ({reason}): they were "
        "killed, or the machine has too little memory for so many. Choose fewer cluster.workers, "
        "then run the same command again."
    ) from reason


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back, and for good from the threads and processes that are started meanwhile.

    A terminal sends it to the workers as well, who must leave it to the driver. Workers are
    started, and replaced, by threads of the cluster, and inherit what is held back from these.
    """
    # Its start lets signals through at its end; it would come with the first worker.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _quieten() -> None:
    """Keep to the schedule what Dask logs of every worker, unless logs are asked for."""
    wanted = logging.getLogger().isEnabledFor(logging.INFO)
    logging.getLogger("distributed").setLevel(logging.INFO if wanted else logging.CRITICAL)


def _worker(cluster: Cluster, number: int, gpus: int, scratch: str) -> dict[str, Any]:
    has_gpu = number < gpus
    options: dict[str, Any] = {
        "host": "127.0.0.1",
        "dashboard": False,
        "dashboard_address": "127.0.0.1:0",
        "local_directory": scratch,
        "nthreads": 2 if has_gpu else 1,
        "resources": {"CPU": 1, "GPU": 1} if has_gpu or not gpus else {"CPU": 1},
    }
    if not cluster.processes:
        return {"cls": Worker, "options": {**options, "memory_limit": 0}}
    options["memory_limit"] = memory_per_worker(cluster)
    options["silence_logs"] = logging.CRITICAL
    options["env"] = _environment(cluster.workers, number if has_gpu else None)
    return {"cls": Nanny, "options": options}


def _environment(workers: int, gpu: int | None) -> dict[str, str]:
    """Environment of a worker's process: its share of the cores, one cache of kernels."""
    cores = str(max(1, (os.cpu_count() or 1) // workers))
    env = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), cores)
    env["OPENBLAS_NUM_THREADS"] = "1"
    if "NUMBA_CACHE_DIR" in os.environ:
        env["NUMBA_CACHE_DIR"] = os.environ["NUMBA_CACHE_DIR"]
    if gpu is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        env["CUDA_VISIBLE_DEVICES"] = visible.split(",")[gpu] if visible else str(gpu)
    return env


def _count_gpus() -> int:
    import torch  # imported here, since it takes seconds and most runs go without

    return int(torch.cuda.device_count())
