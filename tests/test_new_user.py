"""A new user's way, by the commands that the documentation names, on real EM.

Two annotated cubes → raphe train --init-from → raphe train → raphe run with the
model → raphe evaluate. The budget is a few steps: what is tested is the way.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml

from pipeline.arrays import create_array, open_array
from pipeline.geometry import Box
from pipeline.volumes import open_volume
from tasks.demo.command import FOLDER, TRUTH

RAPHE = Path(sys.executable).with_name("raphe")
RAW = str(FOLDER / "data/fib25.zarr/raw/s0")
SHAPE = (24, 48, 48)


def raphe(folder, *arguments):
    """What a command says; it must succeed."""
    result = subprocess.run(
        [str(RAPHE), *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def cut(folder, name, offset):
    """A cube of the demo's volume, as somebody would have it: raw data and labels."""
    box = Box(offset, SHAPE)
    for source, what, kind in ((RAW, "raw", "image"), (TRUTH, "labels", "labels")):
        values = open_volume(source).read(box)
        url = f"{folder}/{name}/{what}/s0"
        create_array(
            url,
            shape=SHAPE,
            dtype=values.dtype,
            block=SHAPE,
            voxel_size=(10, 10, 10),
            kind=kind,
        )
        open_array(url).write(Box((0, 0, 0), SHAPE), values)


def test_from_two_annotated_cubes_to_scored_labels(tmp_path):
    cut(tmp_path, "one.zarr", (0, 20, 20))
    cut(tmp_path, "two.zarr", (30, 120, 120))
    pairs = [
        word
        for name in ("one.zarr", "two.zarr")
        for word in ("--init-from", f"{name}/raw/s0", f"{name}/labels/s0")
    ]
    assert "then: raphe train train.yaml" in raphe(tmp_path, "train", *pairs)

    # As a user would, but for a smaller network and fewer steps.
    config = yaml.safe_load((tmp_path / "train.yaml").read_text())
    for level in config["network"]["levels"]:
        level["channels"] = 4
    config["network"]["bottom"]["channels"] = 4
    config |= {"steps": 3, "crop": [8, 16, 16]}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    said = raphe(tmp_path, "train", "train.yaml", "--output", "mine")
    assert "step 3: validation" in said
    assert "model: mine" in said

    run = {
        "raw": "one.zarr/raw/s0",
        "model": "mine",
        "output": "out.zarr",
        "block": [32, 32, 32],
        "cluster": {"workers": 1, "processes": False},
    }
    (tmp_path / "raphe.yaml").write_text(yaml.safe_dump(run))
    assert "labels are at out.zarr/labels/s0" in raphe(tmp_path, "run", "raphe.yaml")
    labels = open_volume(str(tmp_path / "out.zarr/labels/s0"))
    assert labels.shape == SHAPE

    said = raphe(tmp_path, "evaluate", "out.zarr/labels/s0", "one.zarr/labels/s0", "--json")
    scores = json.loads(said)
    assert np.isfinite(scores["voi_split"] + scores["voi_merge"])
    assert scores["n_voxels"] == int(np.prod(SHAPE))
