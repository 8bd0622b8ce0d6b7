import itertools
import os
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from feeds import Numbers

from pipeline.errors import RunError, VolumeError
from tasks.augmentations.spatial import Elastic, Flip
from tasks.networks.model import Normalisation
from tasks.targets.affinities import NEAREST, Affinities
from tasks.train.crops import Crops
from tasks.train.data import Truth
from tasks.train.feed import Feed


def take(feed, count):
    return [next(feed) for _ in range(count)]


def ours():
    """Processes that were started for this one; not the one that cleans up after them."""
    return {
        child.pid
        for child in psutil.Process().children()
        if "spawn_main" in " ".join(child.cmdline())
    }


def test_crops_are_the_same_from_a_thread_and_from_processes(tmp_path):
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 255, (9, 30, 30)).astype(np.uint8)
    np.savez(tmp_path / "truth.npz", raw=raw, labels=raw // 64 + 1)
    crops = Crops(
        [Truth(raw=f"{tmp_path}/truth.npz:/raw", labels=f"{tmp_path}/truth.npz:/labels")],
        voxel_size=(40, 4, 4),
        core=(4, 8, 8),
        context=(1, 4, 4),
        heads={"affinities": Affinities(offsets=NEAREST)},
        augmentations=[Elastic(amplitude=4), Flip()],
        scaling=Normalisation(mean=128, std=64),
        dust=0,
        seed=5,
    )
    with Feed(crops, 2, 7) as here, Feed(crops, 2, 7, workers=1) as there:
        for a, b in zip(take(here, 3), take(there, 3), strict=True):
            assert a.keys() == b.keys()
            assert all((a[name] == b[name]).all() for name in a)
            assert a["raw"].shape == (2, 1, 6, 16, 16)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_the_order_of_steps_with_the_indices_of_their_rank(workers):
    before = ours()
    with Feed(Numbers(sleep=0.01), 3, 5, workers=workers, rank=1, world_size=2) as feed:
        found = take(feed, 7)
    assert [int(each["step"][0]) for each in found] == list(range(5, 12))
    assert all(each["indices"].tolist() == [3, 4, 5] for each in found)
    processes = {int(each["process"][0]) for each in found}
    assert len(processes) == max(1, workers)
    assert (os.getpid() in processes) == (workers == 0)
    if workers:
        assert {str(each["threads"][0]) for each in found} == {"1"}
        assert not any(each["interruptible"] for each in found)
    assert not ours() - before


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_is_raised_where_batches_are_taken(workers):
    with Feed(Numbers(fails=3), 1, 2, workers=workers) as feed:
        assert next(feed)["step"] == 2
        for _ in range(2):
            with pytest.raises(VolumeError, match="step 3 cannot be read"):
                next(feed)


def test_a_defect_in_a_process_is_told_with_its_traceback():
    with (
        Feed(Numbers(breaks=0), 1, workers=1) as feed,
        pytest.raises(RunError, match=r"ZeroDivisionError: step 0 is broken\n(?s:.*)feeds\.py"),
    ):
        next(feed)


def test_a_process_that_dies_is_missed():
    with Feed(Numbers(dies=1), 1, workers=1) as feed:
        next(feed)
        with pytest.raises(RunError, match=r"ended with exit code -9; .* set fewer workers"):
            next(feed)


def test_closing_ends_processes_whatever_they_do():
    before = ours()
    with Feed(Numbers(sleep=600), 1, workers=2):
        assert len(ours() - before) == 2
    assert not ours() - before


def test_what_the_loop_waits_for_is_counted_but_for_the_first_batch(monkeypatch):
    clock = SimpleNamespace(monotonic=itertools.count().__next__)
    monkeypatch.setattr("tasks.train.feed.time", clock)
    with Feed(Numbers(), 1) as feed:
        waited = [(next(feed), feed.waited)[1] for _ in range(4)]
    assert waited == [0, 1, 2, 3]


def test_a_rank_beyond_the_processes_is_refused():
    with pytest.raises(ValueError, match="rank 2 is not one of 2"):
        Feed(Numbers(), 1, rank=2, world_size=2)
