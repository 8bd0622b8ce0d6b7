"""The schedule against a cluster that the test plays itself."""

from collections import Counter
from io import StringIO

import numpy as np
import pytest
import toys
from distributed import KilledWorker
from rich.console import Console

from pipeline.batch import Outcome
from pipeline.blocks import Blocks
from pipeline.clusters import Workers
from pipeline.events import Events
from pipeline.faults import Faults
from pipeline.fingerprint import Keys
from pipeline.geometry import Box, Grid
from pipeline.progress import Progress
from pipeline.schedule import BATCH, LOSSES, WINDOW, Schedule
from pipeline.steps import Step
from pipeline.store import Store


def lost():
    return KilledWorker("key", None, 0)


class Future:
    def __init__(self, key, work):
        self.key, self.work = key, work
        self.status, self.error, self.value = "pending", None, None

    def add_done_callback(self, call):
        self.call = call

    def exception(self):
        return self.error

    def cancelled(self):
        return self.status == "cancelled"

    def release(self):
        pass


class Client:
    """Ends batches as `fate(batch)` says, the oldest first, when results are waited for."""

    def __init__(self, fate=lambda work, begin: None):
        self.fate, self.waiting, self.most = fate, [], 0
        self.batches, self.priorities = [], Counter()
        self.vanishing = []

    def subscribe_topic(self, topic, handler):
        self.handler = handler

    def submit(self, function, work, name, *, key, resources, priority, **_):
        assert key not in {future.key for future in self.waiting}
        future = Future(key, work)
        self.waiting.append(future)
        self.most = max(self.most, len(self.waiting))
        self.batches.append((work.step, [item[0] for item in work.items]))
        self.priorities[work.step] = priority
        return future

    def end_one(self):
        future = self.waiting.pop(0)
        error = self.fate(future.work, lambda: self.handler((0.0, future.key)))
        future.status, future.error = ("error", error) if error else ("finished", None)
        future.value = Outcome("worker")
        future.call(future)

    def gather(self, futures, errors):
        assert errors == "skip"
        for future in futures.values():
            if self.vanishing and future.key.startswith(self.vanishing[0]):
                self.vanishing.pop(0)
                future.status, future.error, future.value = "error", lost(), None
        return {key: future.value for key, future in futures.items()}

    def cancel(self, futures, force):
        self.waiting = [future for future in self.waiting if future not in futures]


OPEN: list[Blocks] = []


@pytest.fixture(autouse=True)
def _closed():
    yield
    while OPEN:
        OPEN.pop().__exit__()


def schedule(steps, client, retries=1, stopping=lambda: False):
    store = Store("memory://schedule/")
    progress = Progress(steps, {}, Console(file=StringIO()))
    faults = Faults(store, Events(store))
    masks = {step.name: np.zeros(step.grid.counts, np.uint8) for step in steps}
    OPEN.append(Blocks(steps, masks))
    made = Schedule(
        store.url,
        steps,
        OPEN[-1],
        Keys(steps, steps[0].grid.roi, {}),
        Workers(client, {"CPU": 2, "GPU": 1}),
        retries=retries,
        progress=progress,
        faults=faults,
        stopping=stopping,
    )
    made._landings = played(made, client)
    return made, progress, faults


def played(made, client):
    landings = made._landings

    def wait(timeout):
        if client.waiting:
            client.end_one()
        return landings(0.0)

    return wait


def line(n, **fields):
    return Step("a", toys.nothing, {}, Grid(Box((0, 0, 0), (1, 1, n)), (1, 1, 1)), **fields)


def test_the_number_in_flight_is_bounded():
    client = Client()
    made, progress, _ = schedule([line(50)], client)
    made.run()
    assert client.most == 2 * WINDOW
    assert progress.steps["a"].done == 50


def test_trivial_blocks_travel_together():
    client = Client()
    made, _, _ = schedule([line(3 * BATCH + 1, trivial=True)], client)
    made.run()
    assert [len(blocks) for _, blocks in client.batches] == [BATCH, BATCH, BATCH, 1]


def test_later_steps_come_first():
    grid = Grid(Box((0, 0, 0), (1, 1, 40)), (1, 1, 1))
    steps = [line(40), Step("b", toys.nothing, {}, grid, after=("a",))]
    client = Client()
    made, _, _ = schedule(steps, client)
    made.run()
    order = [step for step, _ in client.batches]
    assert order.index("b") < 2 * WINDOW + 2
    assert client.priorities["b"] > client.priorities["a"]


def test_what_waited_on_a_lost_worker_is_sent_again_and_does_not_count_as_tried():
    times = Counter()

    def fate(work, begin):
        index = work.items[0][0]
        times[index] += 1
        return lost() if times[index] <= 3 else None

    made, progress, faults = schedule([line(5)], Client(fate), retries=0)
    made.run()
    assert progress.steps["a"].done == 5
    assert faults.failed == {}


def test_what_ran_on_a_lost_worker_counts_as_tried():
    def fate(work, begin):
        if work.items[0][0] == (0, 0, 3):
            begin()
            return lost()
        return None

    client = Client(fate)
    made, progress, faults = schedule([line(5)], client, retries=2)
    made.run()
    assert progress.steps["a"].done == 4
    assert "the worker died while it ran this block" in faults.failed["a/0.0.3"]
    assert [blocks for _, blocks in client.batches].count([(0, 0, 3)]) == 3


def test_an_outcome_that_is_lost_with_its_worker_is_no_end_of_the_run():
    """Dask runs it again when it is asked for; here that worker dies, too."""
    client = Client()
    client.vanishing = ["a-0.0.1-", "a-0.0.3-", "a-0.0.3-"]
    made, progress, faults = schedule([line(5)], client)
    made.run()
    assert progress.steps["a"].done == 5
    assert faults.failed == {}
    assert [blocks for _, blocks in client.batches].count([(0, 0, 3)]) == 3


def test_a_block_that_is_lost_again_and_again_fails_in_the_end():
    client = Client(lambda work, begin: lost())
    made, _, faults = schedule([line(1)], client, retries=0)
    made.run()
    assert list(faults.failed) == ["a/0.0.0"]
    assert len(client.batches) == LOSSES + 1


def test_a_batch_that_is_lost_is_tried_again_block_by_block():
    def fate(work, begin):
        begin()
        return lost() if len(work.items) > 1 else None

    client = Client(fate)
    made, progress, _ = schedule([line(4, trivial=True)], client)
    made.run()
    assert [len(blocks) for _, blocks in client.batches] == [4, 1, 1, 1, 1]
    assert progress.steps["a"].done == 4


def test_stopping_cancels_what_has_not_begun_and_waits_for_what_has():
    asked = []

    def fate(work, begin):
        asked.append(True)

    client = Client(fate)
    made, progress, _ = schedule([line(50)], client, stopping=lambda: len(asked) > 2)
    submit = made._submit

    def submit_and_begin():
        submit()
        client.handler((0.0, client.waiting[0].key))

    made._submit = submit_and_begin
    with pytest.raises(KeyboardInterrupt):
        made.run()
    assert progress.steps["a"].done == 4
    assert client.waiting == []


def test_nothing_is_kept_of_blocks_that_are_done():
    made, _, _ = schedule([line(200, trivial=True)], Client())
    made.run()
    assert [*made._flights, *made._begun, *made._again] == []
