from io import StringIO

import pytest
import toys
from rich.console import Console

from pipeline.geometry import Box, Grid
from pipeline.progress import Progress, StepProgress
from pipeline.steps import Step

BOX = Box((0, 0, 0), (100, 100, 100))


def progress(n=4, skipped=0, terminal=False):
    grid = Grid(Box((0, 0, 0), (1, 1, n)), (1, 1, 1))
    text = StringIO()
    console = Console(file=text, force_terminal=terminal, width=120)
    return Progress([Step("a", toys.nothing, {}, grid)], {"a": skipped}, console), text


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("pipeline.progress.time.monotonic", lambda: now[0])
    return now


def test_a_line_has_blocks_speed_and_time_left(clock):
    made, text = progress(skipped=1)
    clock[0] = 100.0
    made.started("a")
    clock[0] = 120.0
    made.done("a", BOX)
    assert made.steps["a"].line(120.0) == "2/4 blocks, 0.05 Mvoxel/s, 0:40 left"
    assert "a: 2/4 blocks, 0.05 Mvoxel/s, 0:40 left" in text.getvalue()


def test_plain_lines_come_now_and_then_and_at_the_end(clock):
    made, text = progress(n=100)
    made.started("a")
    for _ in range(100):
        clock[0] += 0.5
        made.done("a", BOX)
    lines = text.getvalue().splitlines()
    assert lines[0] == "a: starts"
    assert lines[-1] == "a: 100/100 blocks, 2.00 Mvoxel/s, 0:50"
    assert len(lines) == 6


def test_failed_blocks_are_told_at_once(clock):
    made, text = progress()
    made.started("a")
    made.failed("a")
    assert "a: 0/4 blocks, 1 failed" in text.getvalue()
    assert made.steps["a"].left == 3


def test_a_terminal_shows_every_step_on_a_line():
    made, text = progress(terminal=True)
    with made.shown():
        made.started("a")
        made.done("a", BOX)
    assert "1/4 blocks" in text.getvalue()
    assert "starts" not in text.getvalue()


def test_counters_are_added():
    made, _ = progress()
    made.count("a", {"bytes_read": 3})
    made.count("a", {"bytes_read": 4})
    assert made.steps["a"].counters == {"bytes_read": 7}


def test_a_step_that_never_ran_took_no_time():
    assert StepProgress("a", 3).seconds == 0.0
