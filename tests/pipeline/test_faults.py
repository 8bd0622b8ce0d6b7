import toys

from pipeline.events import Events, last_events
from pipeline.faults import Faults, open_faults
from pipeline.store import Store

ERROR = "Traceback ...\nValueError: no luck\n"


def test_an_error_is_kept_until_the_block_is_done(tmp_path):
    store = Store(str(tmp_path))
    step = toys.step(toys.job(str(tmp_path)), "source", value=3)
    faults = Faults(store, Events(store))
    faults.record(step, (0, 1, 0), 1, ERROR, "tcp://x", final=False)
    assert faults.failed == {}
    faults.record(step, (0, 1, 0), 2, ERROR, "tcp://x", final=True)
    assert faults.failed == {"source/0.1.0": "ValueError: no luck"}
    (record,) = open_faults(store)
    assert record["params"]["value"] == 3
    assert (record["error"], record["worker"], record["attempt"]) == (ERROR, "tcp://x", 2)
    later = Faults(store, Events(store))
    later.resolve("source", (0, 0, 0))
    assert len(open_faults(store)) == 1
    later.resolve("source", (0, 1, 0))
    assert open_faults(store) == []
    assert [each["event"] for each in last_events(store, 9)] == [
        "block is tried again",
        "block failed",
    ]
