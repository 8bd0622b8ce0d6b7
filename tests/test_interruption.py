"""kill -9 at any moment, of a worker or of the whole run, leaves the result as it is."""

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
import yaml
from click.testing import CliRunner
from results import digests

from pipeline.cli import main
from pipeline.errors import ConfigError
from pipeline.lock import LOCK
from pipeline.status import read_status
from tasks.demo.command import demo_config

RAPHE = Path(sys.executable).with_name("raphe")

KILLS = 10

CROP = {
    "roi": {"offset": [10, 20, 30], "shape": [60, 150, 150]},
    "block": [20, 50, 50],
    "retries": 10,  # all kills may meet the same block
}
"""64 blocks: there is always a moment left for the next kill. A worker may be killed
more often with one block than a block that fails would be tried."""

PATIENCE = 300
"""Seconds after which a run that does not go on counts as hung; kernels may have to be compiled."""


class Raphe:
    """The command `raphe run` on a configuration, as a process to be disturbed."""

    def __init__(self, folder: Path, **fields):
        self.output = folder / "out"
        self._config, self._said = folder / "raphe.yaml", folder / "said.txt"
        folder.mkdir(parents=True, exist_ok=True)
        self._config.write_text(yaml.safe_dump({"output": str(self.output), **fields}))

    def start(self) -> None:
        with self._said.open("w") as said:
            self.process = subprocess.Popen(
                [RAPHE, "run", str(self._config)],
                stderr=said,
                stdout=said,
                start_new_session=True,  # as in a terminal of its own: Ctrl-C reaches all of it
            )

    def end(self) -> tuple[int, str]:
        """Wait until the command ends by itself: its exit status and what it said."""
        status = self.process.wait(PATIENCE)
        return status, self._said.read_text()

    def complete(self) -> str:
        """Run without disturbance, to the end."""
        self.start()
        status, said = self.end()
        assert status == 0, said
        return said

    def reach(self, n_done: int, step: str = "*") -> None:
        """Wait until this process has the output, and this many blocks are done."""
        self.until(lambda: self._is_at_work() and self.n_done(step) >= n_done)

    def n_done(self, step: str = "*") -> int:
        return sum(1 for _ in self.output.glob(f"done/{step}/*.*.*-*"))

    def kill(self) -> None:
        self.process.kill()
        assert self.process.wait() == -signal.SIGKILL

    def interrupt(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)

    def kill_a_worker(self, rng: random.Random) -> None:
        self.until(lambda: self._kill_one(rng))

    def until(self, condition) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, f"it ended too early: {self._said.read_text()}"
            assert time.monotonic() < end, f"it hangs: {self._said.read_text()}"
            time.sleep(0.002)

    def _kill_one(self, rng: random.Random) -> bool:
        try:
            found = psutil.Process(self.process.pid).children()
            workers = [each for each in found if "spawn_main" in " ".join(each.cmdline())]
            if workers:
                rng.choice(workers).kill()
        except psutil.NoSuchProcess:  # it was gone already, and is being replaced
            return False
        return bool(workers)

    def _is_at_work(self) -> bool:
        try:
            return json.loads((self.output / LOCK).read_text())["pid"] == self.process.pid
        except FileNotFoundError:
            return False


def moments(rng: random.Random, n_blocks: int) -> list[int]:
    """Numbers of blocks done, spread over a run, each at random in its part of it.

    The last blocks are left out: with them a run may end before it is killed.
    """
    part = 0.85 * n_blocks / KILLS
    return [int(part * (i + rng.random())) for i in range(KILLS)]


@pytest.fixture(scope="module")
def undisturbed(demo_affinities, tmp_path_factory):
    run = Raphe(tmp_path_factory.mktemp("undisturbed"), affinities=demo_affinities, **CROP)
    run.complete()
    assert len(digests(str(run.output))) > 700
    return run


@pytest.fixture
def disturbed(demo_affinities, tmp_path):
    run = Raphe(tmp_path, affinities=demo_affinities, **CROP)
    yield run
    if run.process.poll() is None:
        run.process.kill()


def is_called_done(run):
    try:
        status = read_status(str(run.output))
    except ConfigError:  # stopped before anything was recorded: there is no run
        return False
    return all(done == total for done, total in status.steps.values())


def assert_whole(run, reference):
    assert is_called_done(run)
    assert digests(str(run.output)) == digests(str(reference.output))


def test_killed_workers_are_replaced_and_their_blocks_run_again(disturbed, undisturbed):
    rng = random.Random(1)
    disturbed.start()
    for moment in moments(rng, undisturbed.n_done()):
        disturbed.reach(moment)
        time.sleep(0.05 * rng.random())
        disturbed.kill_a_worker(rng)
    status, said = disturbed.end()
    assert status == 0, said
    assert (
        "the worker died while it ran this block" in (disturbed.output / "events.jsonl").read_text()
    )
    assert_whole(disturbed, undisturbed)


def test_a_killed_run_is_continued_by_the_same_command(disturbed, undisturbed):
    rng = random.Random(2)
    for moment in moments(rng, undisturbed.n_done()):
        disturbed.start()
        disturbed.reach(moment)
        time.sleep(0.05 * rng.random())
        disturbed.kill()
        assert not is_called_done(disturbed)
    shown = CliRunner().invoke(main, ["status", str(disturbed.output)]).output
    assert f"killed: process {disturbed.process.pid} on " in shown
    said = disturbed.complete()
    assert "blocks are done" in said  # it did not begin again
    assert_whole(disturbed, undisturbed)


@pytest.mark.parametrize("share", [0, 0.4])
def test_ctrl_c_stops_in_good_order_and_says_how_to_continue(disturbed, undisturbed, share):
    """While workers start, and while they work."""
    disturbed.start()
    disturbed.until((disturbed.output / "events.jsonl").exists)
    disturbed.reach(int(share * undisturbed.n_done()))
    disturbed.interrupt()
    status, said = disturbed.end()
    assert status == 130
    assert "Run the same command again to continue" in said
    assert "Traceback" not in said
    assert not is_called_done(disturbed)
    assert not (disturbed.output / LOCK).exists()
    disturbed.complete()
    assert_whole(disturbed, undisturbed)


def test_kills_during_prediction(tmp_path):
    """Workers and drivers that die while the network runs: affinities are the same, too."""
    shipped = demo_config("unused", workers=2)
    fields = {
        "raw": shipped.raw,
        "model": shipped.model,
        "predict": {"tile": [40, 32, 32]},
        "roi": {"offset": [20, 60, 60], "shape": [40, 64, 64]},
        "block": [40, 32, 32],
        "retries": 10,  # all kills may meet the same block
    }
    undisturbed, disturbed = (Raphe(tmp_path / name, **fields) for name in ("one", "other"))
    undisturbed.complete()
    rng = random.Random(3)
    n_blocks = undisturbed.n_done("predict")
    for moment in (0, n_blocks // 3, 2 * n_blocks // 3):
        disturbed.start()
        disturbed.reach(moment, "predict")
        time.sleep(0.2 * rng.random())
        disturbed.kill_a_worker(rng)
        disturbed.reach(moment + 1, "predict")
        assert disturbed.n_done("predict") < n_blocks
        disturbed.kill()
    disturbed.complete()
    assert_whole(disturbed, undisturbed)
