"""Choices of a training from the fingerprints of its data.

Lengths that depend on tissue are chosen in nm, by the calibre of its objects.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.geometry import Box, Triple, triple
from tasks.networks.architecture import UnetArchitecture
from tasks.train.fingerprint import Fingerprint, Size
from tasks.train.fitting import Machine, choose_crop, choose_network, training_bytes

SERIAL = 3.0
"""Anisotropy from which a volume is taken for serial sections, with their defects."""


@dataclass(frozen=True)
class Plan:
    """What was chosen; see `make_plan`."""

    network: UnetArchitecture
    crop: Triple
    batch: int
    training_bytes: int
    far: list[Triple]
    far_nm: tuple[float, float]
    scale: float
    erode: bool
    dust: int
    absorb_sizes: list[int]
    serial: bool
    brightness: float
    held_out: list[tuple[Box, Box]]
    workers: int


def make_plan(fingerprints: list[Fingerprint], machine: Machine) -> Plan:
    """Choose everything that a configuration needs, for volumes of one voxel size."""
    first = fingerprints[0]
    size = first.voxel_size
    network = UnetArchitecture.model_validate(choose_network(size, gpu=machine.gpu))
    held_out = [hold_out(found.box) for found in fingerprints]
    extent = triple(min(learnt.shape[axis] for learnt, _ in held_out) for axis in range(3))
    crop, batch = choose_crop(network, size, extent, machine)
    calibre = _median([found.calibre for found in fingerprints])
    near_nm, far_nm = choose_reach(calibre)
    voxel = math.prod(size)
    absorb = max(1, round(6e5 / voxel))
    return Plan(
        network=network,
        crop=crop,
        batch=batch,
        training_bytes=training_bytes(network, crop, batch),
        far=choose_offsets(size, (near_nm, far_nm)),
        far_nm=(near_nm, far_nm),
        scale=float(min(100.0, max(2 * min(size), round(calibre / 12, -1)))),
        erode=_median([found.touching for found in fingerprints]) > 0.5,
        # A ball of a quarter of the calibre, at most 100,000 nm³.
        dust=max(1, round(min(1e5, math.pi / 6 * (calibre / 4) ** 3) / voxel)),
        absorb_sizes=[max(1, absorb // 3), absorb, 3 * absorb],
        serial=first.anisotropy >= SERIAL,
        brightness=round(max(0.3, 2 * max(found.drift for found in fingerprints)), 2),
        held_out=held_out,
        workers=4 if machine.gpu else 0,
    )


def choose_reach(calibre: float) -> tuple[float, float]:
    """Distances of the long-range affinities in nm, near and far, for objects of a calibre.

    A fifth of the calibre still lies mostly within one object, and bridges a membrane.

    Examples
    --------
    >>> choose_reach(600)
    (40.0, 120.0)
    """
    far = min(300.0, max(60.0, calibre / 5))
    return round(far / 3, 1), round(far, 1)


def choose_offsets(voxel_size: Size, distances: tuple[float, float]) -> list[Triple]:
    """Offsets along each axis at some distances in nm, without those to nearest neighbours."""
    found: list[Triple] = []
    for distance in distances:
        for axis, length in enumerate(voxel_size):
            step = round(distance / length)
            offset = triple(-step if i == axis else 0 for i in range(3))
            if step > 1 and offset not in found:
                found.append(offset)
    return found


def hold_out(box: Box) -> tuple[Box, Box]:
    """What is learnt from, and the last slices, a sixth of all, to score with.

    Examples
    --------
    >>> learnt, scored = hold_out(Box((5, 0, 0), (12, 9, 9)))
    >>> learnt.shape, scored.offset, scored.shape
    ((10, 9, 9), (15, 0, 0), (2, 9, 9))
    """
    held = max(1, round(box.shape[0] / 6))
    rest = box.shape[0] - held
    begin = (box.offset[0] + rest, *box.offset[1:])
    return Box(box.offset, (rest, *box.shape[1:])), Box(begin, (held, *box.shape[1:]))


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2]
