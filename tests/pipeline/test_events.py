from pipeline.events import Events, last_events
from pipeline.store import Store


def test_events_are_lines_of_one_file_on_a_file_system(tmp_path):
    store = Store(str(tmp_path / "o p"))
    for run in (1, 2):
        events = Events(store)
        events.write("run starts", run=run)
        events.write("run ends", run=run)
    assert len((tmp_path / "o p" / "events.jsonl").read_text().splitlines()) == 4
    last = last_events(store, 3)
    assert [(each["event"], each["run"]) for each in last] == [
        ("run ends", 1),
        ("run starts", 2),
        ("run ends", 2),
    ]


def test_a_line_that_was_cut_short_is_left_out(tmp_path):
    store = Store(str(tmp_path))
    Events(store).write("run starts")
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"time": 1, "eve')
    assert [each["event"] for each in last_events(store, 9)] == ["run starts"]


def test_events_are_numbered_objects_where_nothing_can_be_appended():
    store = Store("memory://events-test/")
    events = Events(store)
    for n in range(450):
        events.write("block failed", n=n)
    assert len(store.list("events/")) == 2
    events.flush()
    assert len(store.list("events/")) == 3
    assert [each["n"] for each in last_events(store, 60)] == list(range(390, 450))


def test_there_may_be_no_events(tmp_path):
    assert last_events(Store(str(tmp_path)), 9) == []
    assert last_events(Store("memory://no-events/"), 9) == []
