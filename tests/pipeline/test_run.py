"""Runs with steps that fail, and with workers and drivers that die."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import toys

from pipeline.errors import RunError, VolumeError
from pipeline.events import last_events
from pipeline.geometry import Box, Grid
from pipeline.lock import LOCK
from pipeline.store import Store

TESTS = Path(toys.__file__).parent


def expected(tmp_path, **fields):
    made = toys.job(str(tmp_path / "expected"), **fields)
    toys.run(made, toys.chain(made))
    return toys.numbers(made.config.output)


def errors(output):
    store = Store(output)
    return {name: json.loads(store.read(name)) for name in store.list("errors/")}


def test_a_block_that_fails_is_tried_again_and_its_error_is_kept(tmp_path):
    made = toys.job(str(tmp_path / "o"), retries=2)
    summary, _ = toys.run(made, toys.chain(made, {"context": {"fails": {"0.1.0": 2}}}))
    assert [step.done for step in summary.steps] == [8, 8, 8, 1, 8]
    assert toys.numbers(made.config.output) == expected(tmp_path)
    record = errors(made.config.output)["errors/context/0.1.0.json"]
    assert record["attempt"] == 2
    assert record["resolved"]
    assert "ValueError: no luck with 0.1.0" in record["error"]
    assert "_misbehave" in record["error"]


def test_a_block_that_always_fails_stops_only_what_depends_on_it(tmp_path):
    made = toys.job(str(tmp_path / "o"), shape=(16, 4, 4), retries=1)
    steps = toys.chain(made, {"context": {"fails": {"2.0.0": 99}}})
    with pytest.raises(RunError, match=r"1 blocks failed:\n  context/2.0.0: ValueError: no luck"):
        toys.run(made, steps)
    written = toys.numbers(made.config.output)
    assert {name for name in written if name.startswith("toys/up-1")} == {"toys/up-1/0.0.0"}
    assert not [name for name in written if name.startswith("toys/end")]
    record = errors(made.config.output)["errors/context/2.0.0.json"]
    assert (record["attempt"], record["resolved"]) == (2, False)
    summary, text = toys.run(made, toys.chain(made))
    assert "context: continues, 3 of 4 blocks are done" in text
    assert toys.numbers(made.config.output) == expected(tmp_path, shape=(16, 4, 4))
    assert errors(made.config.output)["errors/context/2.0.0.json"]["resolved"]
    assert [step.skipped for step in summary.steps][:2] == [4, 3]


def test_blocks_of_a_batch_fail_on_their_own(tmp_path):
    made = toys.job(str(tmp_path / "o"), retries=0)
    steps = [toys.step(made, "source", trivial=True, fails={"0.1.0": 99})]
    with pytest.raises(RunError, match="1 blocks failed"):
        toys.run(made, steps)
    assert len(toys.numbers(made.config.output)) == 7


def test_a_step_whose_preparation_fails_stops_the_run(tmp_path):
    made = toys.job(str(tmp_path / "o"))

    def refuse(params):
        raise VolumeError("no array here")

    with pytest.raises(VolumeError, match="no array here"):
        toys.run(made, [toys.step(made, "source", prepare=refuse)])
    assert Store(made.config.output).read(LOCK) is None


def test_a_step_is_prepared_once_and_only_if_it_runs(tmp_path):
    made = toys.job(str(tmp_path / "o"))
    calls = []
    steps = [toys.step(made, "source", prepare=calls.append)]
    toys.run(made, steps)
    toys.run(made, steps)
    assert calls == [steps[0].params]


def test_a_worker_that_dies_is_replaced_and_its_block_tried_again(tmp_path):
    made = toys.job(str(tmp_path / "o"), cluster={"processes": True}, retries=1)
    toys.run(made, toys.chain(made, {"context": {"kills": {"0.1.0": 1}}}))
    assert toys.numbers(made.config.output) == expected(tmp_path)
    record = errors(made.config.output)["errors/context/0.1.0.json"]
    assert "the worker died while it ran this block" in record["error"]
    assert record["resolved"]


def test_a_block_that_always_kills_its_worker_fails_alone(tmp_path):
    made = toys.job(str(tmp_path / "o"), cluster={"processes": True}, retries=1)
    with pytest.raises(RunError, match=r"1 blocks failed:\n  source/0.0.1: the worker died"):
        toys.run(made, [toys.step(made, "source", kills={"0.0.1": 99})])
    assert len(toys.numbers(made.config.output)) == 7


def driver(output, sleep=0.05):
    return subprocess.Popen(
        [sys.executable, "-m", "toys", output, str(sleep)],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def has_begun(output, process):
    """Wait until the first block is done."""
    while not (Path(output) / "toys").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def workers_of(process):
    children = psutil.Process(process.pid).children(recursive=True)
    return [each for each in children if "multiprocessing.spawn" in " ".join(each.cmdline())]


def is_done(output):
    store = Store(output)
    return len(store.list("toys/end/")) == len(Grid(Box((0, 0, 0), (16, 8, 8)), (4, 4, 4)))


def test_kill_9_of_workers_at_random_moments_changes_nothing(tmp_path):
    output, rng = str(tmp_path / "o"), random.Random(1)
    process = driver(output, sleep=0.2)
    has_begun(output, process)
    killed = 0
    while killed < 10 and process.poll() is None:
        time.sleep(rng.uniform(0.0, 0.6))
        victims = workers_of(process)
        if victims:
            rng.choice(victims).kill()
            killed += 1
    assert process.wait(timeout=120) == 0, process.communicate()[1]
    assert killed >= 5
    assert toys.numbers(output) == expected(tmp_path, shape=(16, 8, 8))


def test_kill_9_of_the_driver_at_random_moments_changes_nothing(tmp_path):
    output, rng = str(tmp_path / "o"), random.Random(2)
    killed = 0
    while killed < 10 and not is_done(output):
        process = driver(output, sleep=0.3)
        has_begun(output, process)
        time.sleep(rng.uniform(0.0, 1.2))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        killed += 1
    assert killed >= 3
    process = driver(output, sleep=0)
    assert process.wait(timeout=120) == 0, process.communicate()[1]
    assert toys.numbers(output) == expected(tmp_path, shape=(16, 8, 8))


def test_ctrl_c_leaves_a_state_to_continue_from(tmp_path):
    output = str(tmp_path / "o")
    process = driver(output, sleep=0.3)
    has_begun(output, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it as well
    _, text = process.communicate(timeout=60)
    assert "stopping: waiting a little for the blocks that run" in text
    assert "KeyboardInterrupt" in text
    assert process.returncode != 0
    assert Store(output).read(LOCK) is None
    done = len(toys.numbers(output))
    assert done > 0
    process = driver(output, sleep=0)
    assert process.wait(timeout=120) == 0
    assert toys.numbers(output) == expected(tmp_path, shape=(16, 8, 8))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk_is_named_and_the_run_continues_when_there_is_room(small_disk, tmp_path):
    made = toys.job(str(small_disk / "o"), retries=0)
    steps = toys.chain(made)
    toys.run(made, steps[:1])
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(1 << 20))
    with pytest.raises((RunError, VolumeError), match="The disk is full: free some space"):
        toys.run(made, steps)
    filler.unlink()
    toys.run(made, steps)
    assert toys.numbers(made.config.output) == expected(tmp_path)


def test_a_run_may_write_to_a_bucket(bucket, tmp_path):
    made = toys.job(f"{bucket}/o")
    toys.run(made, toys.chain(made))
    assert toys.numbers(made.config.output) == expected(tmp_path)
    summary, text = toys.run(made, toys.chain(made))
    assert summary.blocks == 0
    assert "everything is done already" in text
    assert len(last_events(Store(made.config.output), 9)) == 2
