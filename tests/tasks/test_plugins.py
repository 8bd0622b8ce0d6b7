"""Parts of another installed package are listed, and training uses them."""

import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Literal

import pytest
import safetensors.torch
import yaml
from trainings import settings

from pipeline.errors import ConfigError
from tasks import registry
from tasks.parts import Loss
from tasks.train.state import CHECKPOINT

BCE = "tasks.losses.bce"
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


class NoPart:
    """Has a kind, and is no loss."""

    kind = "no-part"


class HalfPart(Loss):
    """Says nothing of how it is computed."""

    kind: Literal["half-part"] = "half-part"


class Unnamed(Loss):
    """Is chosen by nothing."""

    kind: str = "unnamed"

    def __call__(self, logits, lesson):
        """Nothing."""


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("NoPart", r"losses 'mine' \(test_plugins:NoPart\) is not a class of tasks.parts.Loss"),
        ("HalfPart", r"does not define __call__. Repair or uninstall the package"),
        ("Unnamed", r"needs a field, kind: Literal\['mine'\]"),
        ("Absent", r"cannot be imported: .*Absent"),
    ],
)
def test_what_is_no_part_is_named_with_its_package(monkeypatch, value, message):
    monkeypatch.setitem(sys.modules, "test_plugins", sys.modules[__name__])
    mine = EntryPoint("mine", f"test_plugins:{value}", "raphe.losses")
    monkeypatch.setattr(registry, "entry_points", lambda group: [mine])
    with pytest.raises(ConfigError, match=message):
        registry.parts.__wrapped__("losses")


def test_two_parts_of_one_name_are_refused(monkeypatch):
    both = [EntryPoint("bce", f"{module}:BalancedBce", "raphe.losses") for module in ("a.b", BCE)]
    monkeypatch.setattr(registry, "entry_points", lambda group: both[::-1])
    with pytest.raises(ConfigError, match=r"two packages offer losses named 'bce': .*a.b:Balanced"):
        registry.parts.__wrapped__("losses")
