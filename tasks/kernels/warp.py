"""Resampling of crops: raw data by linear interpolation, labels by the nearest voxel.

A voxel of the target comes from `turn` times its place plus its displacement,
all counted from the centres of source and target in voxels.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tasks.kernels.jit import inlined, kernel

Floats = npt.NDArray[np.float32]


@inlined
def _source(
    turn: Floats, moved: Floats, axis: int, z: float, y: float, x: float, middle: float
) -> float:
    """Where on an axis a voxel comes from, as an index of the source."""
    turned = turn[axis, 0] * z + turn[axis, 1] * y + turn[axis, 2] * x
    place: float = turned + moved[axis] + middle
    return place


@inlined
def _reflected(i: int, n: int) -> int:
    """`i`, reflected about the border voxels until it is inside 0…n − 1."""
    while n > 1 and (i < 0 or i >= n):
        i = -i if i < 0 else 2 * (n - 1) - i
    return i if n > 1 else 0


@kernel
def linear(raw: Floats, displacement: Floats, turn: Floats) -> Floats:
    """Raw data (z, y, x) at the places that the voxels of the target come from.

    Parameters
    ----------
    raw : ndarray of float32
        What lies outside is mirrored.
    displacement : ndarray of float32
        (3, z, y, x) of the target, in voxels.
    turn : ndarray of float32
        (3, 3).
    """
    _, nz, ny, nx = displacement.shape
    found = np.empty((nz, ny, nx), np.float32)
    mz, my, mx = raw.shape
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                dz, dy, dx = z - (nz - 1) / 2, y - (ny - 1) / 2, x - (nx - 1) / 2
                moved = displacement[:, z, y, x]
                pz = _source(turn, moved, 0, dz, dy, dx, (mz - 1) / 2)
                py = _source(turn, moved, 1, dz, dy, dx, (my - 1) / 2)
                px = _source(turn, moved, 2, dz, dy, dx, (mx - 1) / 2)
                iz, iy, ix = math.floor(pz), math.floor(py), math.floor(px)
                fz, fy, fx = np.float32(pz - iz), np.float32(py - iy), np.float32(px - ix)
                z0, z1 = _reflected(iz, mz), _reflected(iz + 1, mz)
                y0, y1 = _reflected(iy, my), _reflected(iy + 1, my)
                x0, x1 = _reflected(ix, mx), _reflected(ix + 1, mx)
                a = raw[z0, y0, x0] + (raw[z0, y0, x1] - raw[z0, y0, x0]) * fx
                b = raw[z0, y1, x0] + (raw[z0, y1, x1] - raw[z0, y1, x0]) * fx
                c = raw[z1, y0, x0] + (raw[z1, y0, x1] - raw[z1, y0, x0]) * fx
                d = raw[z1, y1, x0] + (raw[z1, y1, x1] - raw[z1, y1, x0]) * fx
                e, f = a + (b - a) * fy, c + (d - c) * fy
                found[z, y, x] = e + (f - e) * fz
    return found


@kernel
def nearest(
    labels: npt.NDArray[np.int32], displacement: Floats, turn: Floats
) -> npt.NDArray[np.int32]:
    """Labels (z, y, x) at the nearest voxels; 0, unknown, outside. See `linear`."""
    _, nz, ny, nx = displacement.shape
    found = np.zeros((nz, ny, nx), np.int32)
    mz, my, mx = labels.shape
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                dz, dy, dx = z - (nz - 1) / 2, y - (ny - 1) / 2, x - (nx - 1) / 2
                moved = displacement[:, z, y, x]
                iz = math.floor(_source(turn, moved, 0, dz, dy, dx, (mz - 1) / 2) + 0.5)
                iy = math.floor(_source(turn, moved, 1, dz, dy, dx, (my - 1) / 2) + 0.5)
                ix = math.floor(_source(turn, moved, 2, dz, dy, dx, (mx - 1) / 2) + 0.5)
                if 0 <= iz < mz and 0 <= iy < my and 0 <= ix < mx:
                    found[z, y, x] = labels[iz, iy, ix]
    return found
