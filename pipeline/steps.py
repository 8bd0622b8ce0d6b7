"""What a step is, and how steps are found.

A *step* is a pure function over the blocks of a grid, with what it reads and
what must be done before. It knows nothing of clusters; the machinery in this
package knows nothing of segmentation. Steps come in through the entry-point
group ``raphe.steps``: each entry is a function ``build(job, upstream)`` that
returns the steps that it adds to a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any

from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.geometry import Block, Box, Grid, Triple

Params = Mapping[str, Any]
Counters = Mapping[str, int]
Process = Callable[[Params, Block], Counters | None]
Builder = Callable[["Job", list["Step"]], list["Step"]]

GROUP = "raphe.steps"


@dataclass(frozen=True)
class Step:
    """One step of a run: a function applied to every block of a grid.

    Parameters
    ----------
    name : str
        Unique within a run; also the folder of its done markers.
    process : callable
        ``process(params, block)``, importable by name on a worker. It reads
        what it needs, writes whole objects only, and may be called again for
        a block that is done, half done or was never begun, with the same
        result. It may return counters (``bytes_read``, ``bytes_written``, …).
    params : mapping
        Plain JSON values: all that `process` depends on besides its inputs.
        A change of one of them redoes the step and what follows from it.
    grid : Grid
        The blocks that it writes.
    after : tuple of str
        Steps whose blocks must be done where they overlap what a block reads.
    lower, upper : tuple of int
        Voxels that a block reads beyond its own on each axis, before and after.
    resource : {"CPU", "GPU"}
        What a worker must have to run it.
    version : int
        Raised whenever the code would write something else for the same input.
    prepare : callable, optional
        ``prepare(params)``, called once by the driver before the first block
        of the step starts and after all of `after` whose blocks it needs
        (creating output arrays, for example). Must be idempotent.
    trivial : bool
        Whether blocks take milliseconds, so that many travel together.
    peak_bytes : int
        Projected peak memory of a worker at work on one whole block.
    bytes_read, bytes_written : int
        Projected traffic of the whole step, before compression.
    paths : tuple of str
        Names in `params` that say where things lie, not what is computed;
        they are left out of the step's fingerprint.
    outputs : tuple of str
        Prefixes of objects, relative to the output, of which at least one must
        exist for the step's done markers to count (``labels/s0/``). If what
        lies there is deleted, the step and what follows from it is redone.
    """

    name: str
    process: Process
    params: Params
    grid: Grid
    after: tuple[str, ...] = ()
    lower: Triple = (0, 0, 0)
    upper: Triple = (0, 0, 0)
    resource: str = "CPU"
    version: int = 1
    prepare: Callable[[Params], None] | None = None
    trivial: bool = False
    peak_bytes: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    paths: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """What every builder of steps is told about the run.

    Parameters
    ----------
    config : Config
        The configuration as resolved.
    shape : tuple of int
        Extent of the input volume in voxels.
    voxel_size : tuple of float
        nm, (z, y, x).
    translation : tuple of float
        Position of voxel (0, 0, 0) in nm, (z, y, x).
    roi : Box
        What is processed.
    identity : mapping
        What tells this input from another one (URL, metadata checksum, …).
    """

    config: Config
    shape: Triple
    voxel_size: tuple[float, float, float]
    translation: tuple[float, float, float]
    roi: Box
    identity: Mapping[str, Any] = field(default_factory=dict)

    @property
    def grid(self) -> Grid:
        """The blocks of the configuration over the region of interest."""
        return Grid(self.roi, self.config.block)

    def path(self, *parts: str) -> str:
        """URL of something inside the output."""
        return "/".join((self.config.output.rstrip("/"), *parts))


def builder(name: str) -> Builder:
    """The registered builder of steps called `name`.

    Raises
    ------
    ConfigError
        If no installed package registers it.
    """
    found = entry_points(group=GROUP)
    for entry in found:
        if entry.name == name:
            loaded: Builder = entry.load()
            return loaded
    known = ", ".join(sorted(entry.name for entry in found))
    raise ConfigError(
        f"no steps are registered as {name!r}; registered in the entry-point group "
        f"{GROUP!r}: {known}. Check the spelling, or install the package that brings it."
    )
