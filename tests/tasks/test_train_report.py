"""What a training says: a live line on a terminal, plain lines elsewhere, and how fast it is."""

from io import StringIO

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.errors import RunError
from tasks.train import report
from tasks.train.report import Report


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when it is told to."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    found = Clock()
    monkeypatch.setattr(report, "time", found)
    return found


def losses(value):
    return {"affinities.bce": torch.tensor(value), "gradient": torch.tensor(1.0)}


def make(tmp_path, text, **options):
    console = Console(file=text, width=200, **options)
    return Report(1000, 0, crops=4, voxels=2_000_000, logs=tmp_path, console=console)


def test_plain_lines_say_loss_speed_and_waiting(tmp_path, clock):
    text = StringIO()
    with make(tmp_path, text) as said:
        for step in range(1, 11):
            clock.now += 4
            said.step(step, step / 1000, 0.002, losses(0.5), waited=0.2 * step)
    lines = text.getvalue().splitlines()
    assert len(lines) == 1
    assert "step 8 of at most 1000, loss affinities.bce 0.500; 1.00 crops/s" in lines[0]
    assert "0.500 Mvoxel/s, 5% waiting for data" in lines[0]
    scalars = EventAccumulator(str(tmp_path)).Reload()
    assert [each.step for each in scalars.Scalars("loss/affinities.bce")] == list(range(1, 11))
    assert scalars.Scalars("training/waiting_share")[3].value == pytest.approx(0.05)


def test_quick_steps_are_read_together(tmp_path, clock):
    with make(tmp_path, StringIO()) as said:
        for step in range(1, 21):
            clock.now += 0.1
            said.step(step, step / 1000, 0.002, losses(float(step)), waited=0.0)
    found = EventAccumulator(str(tmp_path)).Reload().Scalars("loss/affinities.bce")
    assert found[0].step in (10, 11)
    assert found[0].value == pytest.approx(found[0].step / 2 + 0.5)
    assert len(found) <= 2


def test_a_terminal_has_a_live_line(tmp_path, clock):
    text = StringIO()
    with make(tmp_path, text, force_terminal=True) as said:
        clock.now += 10
        said.step(500, 0.5, 0.002, losses(0.25), waited=0.0)
    assert "50%" in text.getvalue()
    assert "loss affinities.bce 0.250" in text.getvalue()


def test_a_loss_that_is_no_number_is_an_error(tmp_path, clock):
    with make(tmp_path, StringIO()) as said:
        said.step(1, 0.1, 0.002, losses(1.0), waited=0.0)
        clock.now += 10
        with pytest.raises(RunError, match=r"at step 2 affinities.bce is no number.*restart"):
            said.step(2, 0.2, 0.002, losses(float("inf")), waited=0.0)
