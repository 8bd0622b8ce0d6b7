import json
import multiprocessing
import os

import psutil
import pytest
import toys

from pipeline.errors import RunError
from pipeline.lock import LOCK, locked
from pipeline.store import Store


def held_by(store, **changes):
    mine = {"host": os.uname().nodename, "pid": os.getpid(), "time": "now"}
    mine["started"] = psutil.Process().create_time()
    store.write(LOCK, json.dumps(mine | changes).encode())


def test_the_lock_is_gone_at_the_end_also_after_an_error(tmp_path):
    store = Store(str(tmp_path))
    present = []

    def fail():
        with locked(store):
            present.append(store.read(LOCK))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert present != [None]
    assert store.read(LOCK) is None


def test_two_runs_on_one_output_are_refused(tmp_path):
    made = toys.job(str(tmp_path / "o"))
    store = Store(made.config.output)
    held_by(store)
    with pytest.raises(RunError, match=rf"another run writes to .*: process {os.getpid()} on"):
        toys.run(made, toys.chain(made))
    assert store.read(LOCK) is not None


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    store = Store(str(tmp_path))
    process = multiprocessing.get_context("spawn").Process(target=print)
    process.start()
    process.join()
    held_by(store, pid=process.pid)
    with locked(store):
        pass
    held_by(store, started=1.0)  # the same number, but another process
    with locked(store):
        pass


def test_of_another_host_only_the_user_can_know(tmp_path):
    store = Store(str(tmp_path))
    held_by(store, host="elsewhere", pid=1)
    with pytest.raises(RunError, match=r"on elsewhere, .* or delete .*lock.json if you know"):
        locked(store).__enter__()
