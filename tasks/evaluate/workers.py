"""Apply a function to many boxes, on worker processes or in this one.

Results come as they are ready. At most a few boxes for each worker are under
way, so neither the scheduler nor the driver holds all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from distributed import as_completed

from pipeline.clusters import open_cluster
from pipeline.config import Cluster
from pipeline.geometry import Box

T = TypeVar("T")

_WINDOW = 4


def over_boxes(function: Callable[[Box], T], boxes: Sequence[Box], workers: int) -> Iterator[T]:
    """Results of ``function(box)``, in no particular order.

    Parameters
    ----------
    function : callable
        Picklable.
    boxes : sequence of Box
    workers : int
        Processes; with 1, or where there is one box, everything is done here.
    """
    if workers == 1 or len(boxes) == 1:
        yield from map(function, boxes)
        return
    waiting = iter(boxes)
    with open_cluster(Cluster(workers=min(workers, len(boxes))), []) as cluster:
        client = cluster.client
        first = itertools.islice(waiting, _WINDOW * workers)
        done = as_completed(client.submit(function, box, pure=False) for box in first)
        for future in done:
            for box in itertools.islice(waiting, 1):
                done.add(client.submit(function, box, pure=False))
            yield future.result()
