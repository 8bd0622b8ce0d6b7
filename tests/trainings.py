"""Trainings that take a second: two cells with a dark membrane between them, and a tiny network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from tasks.networks.model import load_network
from tasks.train.config import Training, load

NEAREST = [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]


def write_truth(path: Path, shape: tuple[int, int, int] = (16, 20, 20)) -> dict[str, str]:
    """Two cells in a file .npz, as an entry of `training`."""
    rng = np.random.default_rng(0)
    _, y, x = np.indices(shape)
    bent = x - shape[2] // 2 - 2 * np.sin(y / 3)
    labels = np.where(bent < 0, 5, 9).astype(np.uint32)
    raw = np.where(np.abs(bent) < 1.5, 60, 160) + rng.normal(0, 5, labels.shape)
    np.savez(path, raw=raw.astype(np.uint8), labels=labels)
    return {"raw": f"{path}:/raw", "labels": f"{path}:/labels"}


def network(**changes: Any) -> dict[str, Any]:
    """A U-Net of two levels."""
    level = {"channels": 4, "factor": [2, 2, 2], "down": [[3, 3, 3]], "up": [[3, 3, 3]]}
    bottom = {"channels": 8, "kernels": [[3, 3, 3]]}
    return {"kind": "unet", "levels": [level], "bottom": bottom} | changes


def settings(folder: Path) -> dict[str, Any]:
    """A training of four steps, as it stands in YAML."""
    truth = write_truth(folder / "truth.npz")
    return {
        "output": str(folder / "model"),
        "training": [truth | {"slices": [0, 12]}],
        "validation": truth | {"slices": [12, 16]},
        "voxel_size": [10, 10, 10],
        "dust": 10,
        "network": network(),
        "heads": {
            "affinities": {"kind": "affinities", "offsets": NEAREST},
            "far": {"kind": "affinities", "offsets": [[0, 0, -3]], "erode": True},
            "distances": {"kind": "distances", "scale": 20},
        },
        "losses": {"far": [{"kind": "bce", "weight": 0.5}]},
        "crop": [8, 8, 8],
        "steps": 4,
        "optimiser": {"learning_rate": 0.01, "warmup": 2, "ema": 0.9},
        "validate": {"steps": 1000, "thresholds": [0.4, 0.5, 0.6], "absorb_sizes": [0, 20]},
        "precision": "float32",
        "device": "cpu",
    }


def configuration(folder: Path, **changes: Any) -> Training:
    """The training with some fields of its own, as it is read from ``train.yaml``."""
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(settings(folder) | changes))
    return load(str(path))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a model directory."""
    found: dict[str, torch.Tensor] = load_network(folder)[1].state_dict()
    return found


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether weights are the same to the last bit."""
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())
