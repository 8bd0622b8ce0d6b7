"""What each part of the methods of R11, R13 and R14 brings: one budget, the same three seeds.

    python benchmarks/ablation.py fib25 [--steps 200] [--seeds 0 1 2]
    python benchmarks/ablation.py cremi_b | isbi2012 [--steps 150]

`fib25` trains the network of the shipped model on slices below 120 of FIB-25 and scores slices 130
to 170 at the best of seven thresholds: VOI (split + merge, bits) and adapted Rand error.

- `bce`: affinities of nearest neighbours by balanced cross-entropy, with long-range auxiliary ones
- `bce, no long-range`: without the auxiliary head (R11 says that it helps)
- `bce + malis`: the structured loss of R13 besides
- `distances`: signed distances in place of affinities (R14), an edge being the smaller end
- `bce, flips`: the networks of `bce`, predicting with test-time augmentation

`cremi_b` (sections 0 to 2 to train, 3 and 4 to score) and `isbi2012` (20 and 10; cells are told
apart within sections) compare the hybrid of R11 and R14, 2-D in its fine levels, with kernels that
are 3-D throughout: V_rand and V_info (F-scores of Arganda-Carreras et al. 2015, 1 is perfect) of
each section by itself, at the best of seven thresholds, averaged over sections.

Prints one JSON object: for each arm the scores of each seed, their mean and standard deviation.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from scoring import predicted
from skimage.measure import label

import tasks  # noqa: F401 - sets what torch reads when it is imported
from pipeline.config import Segment
from pipeline.geometry import Box
from pipeline.volumes import open_volume
from tasks.core import sweep
from tasks.evaluate.contingency import contingency
from tasks.evaluate.scores import score
from tasks.train.config import Training
from tasks.train.loop import train

Array = np.ndarray[Any, Any]
THRESHOLDS = [0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7]
DATA = Path("../shared/data")
SHIPPED = Path("tasks/models/fib25-affinities/train.yaml")
NEAREST = [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]


def fib25(steps: int) -> dict[str, dict[str, Any]]:
    """Configurations of the arms by name."""
    whole = yaml.safe_load(SHIPPED.read_text())
    heads = whole["heads"]
    bce = {"affinities": heads["affinities"], "far": heads["long_range_affinities"]}
    losses: dict[str, Any] = {"far": [{"kind": "bce", "weight": 0.5}]}
    common = {
        "training": whole["training"],
        "validation": whole["validation"],
        "voxel_size": whole["voxel_size"],
        "network": whole["network"],
        "crop": whole["crop"],
        "steps": steps,
    }
    malis = [{"kind": "bce"}, {"kind": "malis", "weight": 0.3}]
    return {
        "bce": common | {"heads": bce, "losses": losses},
        "bce, no long-range": common | {"heads": {"affinities": heads["affinities"]}},
        "bce + malis": common | {"heads": bce, "losses": losses | {"affinities": malis}},
        "distances": common | {"heads": {"distances": heads["distances"]}},
    }


def anisotropic(name: str, steps: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Configurations of the arms on serial sections."""
    train_to, stored = {"cremi_b": (3, "crop.npz"), "isbi2012": (20, "train.npz")}[name]
    source = np.load(DATA / name / stored)
    if name == "cremi_b":
        labels = source["gt"]
    else:
        # What is not membrane, section by section; a section's cells have ids of their own.
        labels = np.zeros(source["label"].shape, np.uint32)
        for z, section in enumerate(source["label"]):
            cells = label(section > 0, connectivity=1).astype(np.uint32)
            labels[z] = np.where(cells > 0, cells + 10_000 * z, 0)
    np.savez(folder / "truth.npz", raw=source["raw"], labels=labels)
    truth = {"raw": f"{folder}/truth.npz:/raw", "labels": f"{folder}/truth.npz:/labels"}
    if name == "isbi2012":
        truth["background"] = [0]
    common = {
        "training": [truth | {"slices": [0, train_to]}],
        "validation": truth | {"slices": [train_to, len(labels)]},
        "voxel_size": [40 if name == "cremi_b" else 50, 4, 4],
        "heads": {"affinities": {"kind": "affinities", "offsets": NEAREST, "erode": True}},
        "crop": [2, 64, 64],
        "steps": steps,
    }
    flat, deep = [1, 3, 3], [3, 3, 3]
    return {
        "hybrid": common | {"network": unet(flat, flat, deep)},
        "fully 3-D": common | {"network": unet(deep, deep, deep)},
    }


def unet(first: list[int], second: list[int], bottom: list[int]) -> dict[str, Any]:
    """A U-Net with these kernels in its levels, downsampled within sections alone."""
    factor = [1, 2, 2]
    levels = [
        {"channels": 16, "down": [first], "up": [first] * 2, "factor": factor},
        {"channels": 32, "down": [second] * 2, "up": [second] * 2, "factor": factor},
    ]
    return {"kind": "unet", "levels": levels, "bottom": {"channels": 64, "kernels": [bottom] * 2}}


def volume_scores(affinities: Array, truth: Array) -> dict[str, float]:
    """VOI and adapted Rand error at the threshold of least VOI."""
    settings = (Segment(threshold=t) for t in THRESHOLDS)
    found = [score(contingency(truth, labels)) for labels in sweep(affinities, settings)]
    best = min(found, key=lambda each: each.voi)
    return {"voi": best.voi, "adapted_rand_error": best.adapted_rand_error}


def section_scores(affinities: Array, truth: Array) -> dict[str, float]:
    """V_rand and V_info of sections by themselves, at the threshold of the largest V_rand."""
    affinities = affinities.copy()
    affinities[0] = 0  # nothing joins sections
    settings = (Segment(threshold=t, absorb_size=300) for t in THRESHOLDS)
    found = [
        np.mean([f_scores(a, b) for a, b in zip(truth, labels, strict=True)], axis=0)
        for labels in sweep(affinities, settings)
    ]
    best = max(found, key=lambda each: float(each[0]))
    return {"v_rand": float(best[0]), "v_info": float(best[1])}


def f_scores(truth: Array, labels: Array) -> tuple[float, float]:
    """V_rand and V_info of one section, truth 0 ignored."""
    found = score(contingency(truth[None], labels[None]))
    known = truth > 0
    entropy = sum(_entropy(array[known]) for array in (truth, labels))
    return 1 - found.adapted_rand_error, (entropy - found.voi) / max(entropy, 1e-9)


def _entropy(labels: Array) -> float:
    share = np.unique(labels, return_counts=True)[1] / labels.size
    return float(-(share * np.log2(share)).sum())


def trained(settings: dict[str, Any], seed: int, folder: Path) -> tuple[Path, Training]:
    """The model of one arm and seed; only its last weights are of interest."""
    validate = {"after": 10**9, "minutes": 10**6, "thresholds": [0.55]}
    record = settings | {"seed": seed, "output": str(folder / "model"), "validate": validate}
    config = Training.model_validate(record)
    with (folder / "train.log").open("w") as log:
        return train(config, Console(file=log)), config


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("data", choices=["fib25", "cremi_b", "isbi2012"])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    steps = options.steps or {"fib25": 200}.get(options.data, 150)
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        isotropic = options.data == "fib25"
        shared = Path(scratch)
        arms = fib25(steps) if isotropic else anisotropic(options.data, steps, shared)
        scores = volume_scores if isotropic else section_scores
        for seed in options.seeds:
            for name, settings in arms.items():
                folder = shared / f"{seed}-{name}"
                folder.mkdir()
                model, config = trained(settings, seed, folder)
                truth = config.validation[0]
                labels = open_volume(truth.labels, voxel_size=config.voxel_size)
                slices = (130, 170) if isotropic else truth.slices
                box = Box.between((slices[0], 0, 0), (slices[1], *labels.shape[1:]))
                for tta in ("none", "flips") if name == "bce" else ("none",):
                    _, affinities = predicted(str(model), truth.raw, slices, tta=tta)
                    row = scores(affinities, labels.read(box))
                    arm = name if tta == "none" else f"{name}, {tta}"
                    found.setdefault(arm, []).append(row)
                    print(json.dumps({"arm": arm, "seed": seed} | row), flush=True)
    summary = {
        arm: {
            key: {
                "mean": round(float(np.mean([row[key] for row in rows])), 3),
                "standard_deviation": round(float(np.std([row[key] for row in rows], ddof=1)), 3),
                "seeds": [round(row[key], 3) for row in rows],
            }
            for key in rows[0]
        }
        for arm, rows in found.items()
    }
    print(json.dumps({"data": options.data, "steps": steps, "arms": summary}, indent=1))


if __name__ == "__main__":
    main()
