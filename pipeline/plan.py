"""What a run would do, and whether it fits, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.clusters import memory_per_worker
from pipeline.config import Cluster
from pipeline.errors import ConfigError
from pipeline.steps import Step


def check_memory(steps: Sequence[Step], cluster: Cluster) -> None:
    """Refuse steps whose blocks do not fit into a worker's memory.

    Raises
    ------
    ConfigError
        Naming the step, what it needs and the limit.
    """
    limit = memory_per_worker(cluster)
    for step in steps:
        if step.peak_bytes > limit:
            raise ConfigError(
                f"a block of step {step.name!r} needs {step.peak_bytes / 2**30:.2f} GiB, and a "
                f"worker has {limit / 2**30:.2f} GiB. Choose a smaller block (it never changes "
                "the labels), fewer cluster.workers, or raise cluster.memory_gib."
            )
