"""Two processes with a crop each learn what one process with two crops learns, and end."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from rich.console import Console
from trainings import configuration

from tasks.networks.model import read_description
from tasks.train.loop import train
from tasks.train.state import CHECKPOINT

RAPHE = Path(sys.executable).with_name("raphe")


@pytest.fixture
def config(tmp_path):
    # With this loss and nothing unknown, the mean over two crops is the mean of their means.
    teach = {"boundary": {"kind": "boundary"}, "distances": {"kind": "distances", "scale": 20}}
    return functools.partial(
        configuration,
        tmp_path,
        heads=teach,
        losses={name: [{"kind": "mse"}] for name in teach},
        validate={"steps": 2},
    )


def launch(*command):
    """Run a command in two processes under torchrun; everything must be over in two minutes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python"]
    return subprocess.run(
        [*launcher, "--nproc-per-node", "2", *command],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_two_processes_learn_like_one_with_twice_the_crops(config, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    one = train(config(batch=2, output=str(tmp_path / "one")), Console(quiet=True))
    torch.set_num_threads(before)
    config(batch=1, output=str(tmp_path / "two"))
    result = launch(str(RAPHE), "train", str(tmp_path / "train.yaml"))
    assert result.returncode == 0, result.stderr
    # The first process alone says and writes anything.
    assert result.stdout.count("step 4: validation") == 1
    assert result.stdout.count(f"model: {tmp_path / 'two'}") == 1
    found, expected = (
        safetensors.torch.load_file(folder / CHECKPOINT) for folder in (tmp_path / "two", one)
    )
    assert found.keys() == expected.keys()
    for name in expected:
        if name.startswith(("network.", "average.")):
            torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-3)
    scores = read_description(tmp_path / "two").training["validation"]
    assert [each["step"] for each in scores] == [2, 4]


DIES = """
import os, sys
from tasks.train.config import load
from tasks.train.learn import Learner
from tasks.train.loop import train

step = Learner.step

def dying(self, batch, share):
    if self.team.rank == 1 and self.state.step == 1:
        os._exit(3)
    return step(self, batch, share)

Learner.step = dying
train(load(sys.argv[1]))
"""


def test_when_one_dies_all_end(config, tmp_path):
    config()
    result = launch(sys.executable, "-c", DIES, str(tmp_path / "train.yaml"))
    assert result.returncode != 0
    assert "exitcode" in result.stderr
