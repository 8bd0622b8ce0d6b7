"""Parts of another installed package are listed, and training uses them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import yaml
from trainings import settings

from tasks.train.state import CHECKPOINT

RAPHE = Path(sys.executable).with_name("raphe")

MODULE = '''
from typing import Literal

import numpy as np
from torch import Tensor

from tasks.parts import Augmentation, Crop, Lesson, Loss


class Sharp(Loss):
    """Squared logits, which are of no use."""

    kind: Literal["sharp"] = "sharp"
    power: float = 2.0

    def __call__(self, logits: Tensor, lesson: Lesson) -> Tensor:
        return logits.float().abs().pow(self.power).mean()


class Black(Augmentation):
    """All is black."""

    kind: Literal["black"] = "black"

    def apply(self, crop: Crop, rng: np.random.Generator) -> Crop:
        return Crop(np.zeros_like(crop.raw), crop.labels, crop.voxel_size)
'''

ENTRIES = """
[raphe.losses]
sharp = my_parts:Sharp

[raphe.augmentations]
black = my_parts:Black
"""


@pytest.fixture
def site(tmp_path):
    """A folder as pip would leave it, with a package of one's own."""
    folder = tmp_path / "site"
    record = folder / "my_parts-1.0.dist-info"
    record.mkdir(parents=True)
    (folder / "my_parts.py").write_text(MODULE)
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: my-parts\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text(ENTRIES)
    return folder


def raphe(site, *arguments):
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(site)}
    return subprocess.run(
        [str(RAPHE), *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_training_uses_parts_of_another_package(site, tmp_path):
    listed = json.loads(raphe(site, "models", "--json").stdout)
    found = {each["name"]: each for each in listed["losses"] + listed["augmentations"]}
    assert found["sharp"] == {
        "name": "sharp",
        "summary": "Squared logits, which are of no use.",
        "package": "my_parts",
    }
    assert found["black"]["package"] == "my_parts"

    config = settings(tmp_path) | {
        "losses": {"affinities": [{"kind": "bce"}, {"kind": "sharp", "power": 4, "weight": 0.1}]},
        "augmentations": [{"kind": "flip"}, {"kind": "black"}],
        "workers": 1,
    }
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(config))
    result = raphe(site, "train", str(path))
    assert result.returncode == 0, result.stderr
    # In the dark the first layer learns nothing but its biases.
    moments = safetensors.torch.load_file(tmp_path / "model" / CHECKPOINT)
    kernels = [
        value
        for name, value in moments.items()
        if name.endswith(".exp_avg") and value.ndim == 5 and value.shape[1] == 1
    ]
    assert kernels
    assert not any(
        value.any() for value in kernels if value.shape[2:] == (3, 3, 3) and value.shape[0] == 4
    )

    # Without the package, the error says what there is.
    result = raphe(tmp_path / "nowhere", "train", str(path), "--restart")
    assert result.returncode == 2
    assert "sharp" in result.stderr
    assert "'bce'" in result.stderr
