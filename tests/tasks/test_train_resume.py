"""A training that is interrupted ends, to the last bit, like one that was not."""

import functools
import os
import signal
import subprocess
import sys
import time

import pytest
import safetensors.torch
from rich.console import Console
from trainings import network, same

from pipeline.errors import ConfigError
from tasks.networks.model import read_description
from tasks.train import learn
from tasks.train.loop import train
from tasks.train.state import CHECKPOINT

pytestmark = pytest.mark.usefixtures("one_thread")

QUIET = Console(quiet=True)


def everything(folder):
    """All tensors of the checkpoint: weights, their average, the moments."""
    return safetensors.torch.load_file(folder / CHECKPOINT)


class StopHereError(Exception):
    pass


def interrupt(monkeypatch, step):
    """Let training end after a step, whose checkpoint may have been written or not."""
    real = learn.Learner.step

    def interrupted(self, batch, share):
        if self.state.step == step:
            raise StopHereError
        return real(self, batch, share)

    monkeypatch.setattr(learn.Learner, "step", interrupted)


# A checkpoint is written after every step, or with the validations alone.
ALWAYS = {"checkpoint_minutes": 1e-9}


@pytest.mark.parametrize(
    "options",
    [
        ALWAYS,
        ALWAYS | {"network": network(norm="batch"), "batch": 2},
        ALWAYS | {"precision": "bfloat16", "optimiser": {"schedule": "polynomial"}},
        {"validate": {"steps": 2}},
    ],
    ids=["plain", "batch norm", "bfloat16", "after a validation"],
)
def test_parts_give_what_the_whole_gives(config, tmp_path, monkeypatch, options):
    whole = train(config(output=str(tmp_path / "whole"), **options), QUIET)
    parts = config(output=str(tmp_path / "parts"), **options)
    with monkeypatch.context() as patched:
        interrupt(patched, 3)
        with pytest.raises(StopHereError):
            train(parts, QUIET)
    assert same(everything(train(parts, QUIET)), everything(whole))
    first, second = (read_description(folder).training for folder in (whole, tmp_path / "parts"))
    assert first["validation"] == second["validation"]


def test_it_does_not_matter_who_makes_the_crops(config, tmp_path, monkeypatch):
    whole = train(config(output=str(tmp_path / "whole"), **ALWAYS), QUIET)
    parts = functools.partial(config, output=str(tmp_path / "parts"), **ALWAYS)
    with monkeypatch.context() as patched:
        interrupt(patched, 3)
        with pytest.raises(StopHereError):
            train(parts(workers=2), QUIET)
    assert same(everything(train(parts(workers=1), QUIET)), everything(whole))


def test_a_training_that_was_killed_goes_on(config, tmp_path):
    whole = train(config(output=str(tmp_path / "whole"), steps=30, **ALWAYS), QUIET)
    parts = config(output=str(tmp_path / "parts"), steps=30, **ALWAYS)
    code = "from pipeline.cli import main; main()"
    command = [sys.executable, "-c", code, "train", str(tmp_path / "train.yaml")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    checkpoint = tmp_path / "parts" / CHECKPOINT
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    assert same(everything(train(parts, QUIET)), everything(whole))


def test_validations_change_no_weights(config, tmp_path):
    often = train(config(output=str(tmp_path / "often"), validate={"steps": 1}), QUIET)
    seldom = train(config(output=str(tmp_path / "seldom"), validate={"steps": 99}), QUIET)
    assert same(everything(often), everything(seldom))


def test_a_training_that_is_over_changes_nothing(config):
    folder = train(config(), QUIET)
    before = (folder / CHECKPOINT).read_bytes()
    train(config(), QUIET)
    assert (folder / CHECKPOINT).read_bytes() == before


def test_a_checkpoint_of_another_configuration_is_refused(config):
    train(config(), QUIET)
    with pytest.raises(ConfigError, match=r"another configuration: crop, dust changed.*restart"):
        train(config(dust=9, crop=[4, 8, 8]), QUIET)


def test_a_training_may_be_made_longer(config):
    train(config(), QUIET)
    folder = train(config(steps=6, validate={"steps": 3}), QUIET)
    assert read_description(folder).training["steps"] == 6


def test_scores_of_two_heads_are_not_compared(config):
    train(config(), QUIET)
    with pytest.raises(ConfigError, match=r"another configuration: validate.head changed"):
        train(config(steps=6, validate={"steps": 3, "head": "distances"}), QUIET)


def test_a_damaged_checkpoint_is_refused(config):
    folder = train(config(), QUIET)
    path = folder / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ConfigError, match=r"is damaged .*delete it"):
        train(config(steps=6), QUIET)
