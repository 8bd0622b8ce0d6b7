"""Write the configuration of a training from annotated volumes."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import parse_as
from pipeline.errors import ConfigError
from tasks.train.config import Training
from tasks.train.fingerprint import (
    Fingerprint,
    Size,
    is_same_size,
    take_fingerprint,
)
from tasks.train.fitting import Machine
from tasks.train.init_text import configuration
from tasks.train.plan import make_plan


def write_training(
    pairs: list[tuple[str, str]],
    output: str,
    *,
    voxel_size: Size | None = None,
    force: bool = False,
    machine: Machine | None = None,
) -> str:
    """Write a configuration for raw volumes and their labels; returns what to tell the user.

    Parameters
    ----------
    pairs : list of (raw, labels)
        Paths or URLs.
    output : str
        File to write.
    voxel_size : tuple of float, optional
        nm, (z, y, x); only where the volumes carry none.
    force : bool
        Whether a file that exists is replaced.
    machine : Machine, optional
        Whose memory to plan for; this one by default.

    Raises
    ------
    ConfigError
        If the file exists, or the volumes do not fit each other; see `take_fingerprint`.
    """
    path = Path(output)
    if path.exists() and not force:
        raise ConfigError(
            f"{output!r} exists; give another name with --output, or --force to replace it"
        )
    found = [take_fingerprint(raw, labels, voxel_size) for raw, labels in pairs]
    _check_alike(found)
    text = configuration(found, make_plan(found, machine or Machine.here()), path.stem)
    parse_as(Training, text, output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return f"wrote {output}; look at it, then: raphe train {output}"


def _check_alike(found: list[Fingerprint]) -> None:
    first = found[0]
    for other in found[1:]:
        if not is_same_size(other.voxel_size, first.voxel_size):
            raise ConfigError(
                f"{other.raw!r} has voxels of {list(other.voxel_size)} nm and {first.raw!r} of "
                f"{list(first.voxel_size)} nm; a network is trained at one size: resample one, or "
                "choose another of its scales"
            )
        if other.dtype != first.dtype:
            raise ConfigError(
                f"{other.raw!r} holds {other.dtype} and {first.raw!r} {first.dtype}; convert one"
            )
