import pytest
import toys

from pipeline.errors import ConfigError
from pipeline.fingerprint import Keys, essence, fingerprint
from pipeline.geometry import Box, Grid
from pipeline.steps import Step

IDENTITY = {"input": {"url": "a"}}


def keys_of(steps, shape=(8, 8, 8), identity=IDENTITY):
    keys = Keys(steps, Box((0, 0, 0), shape), identity)
    return {
        (step.name, block.index): keys.key(step.name, block.index)
        for step in steps
        for block in step.grid
    }


def pair(shape=(8, 8, 8), upper=(0, 0, 0), first=None, second=None, **fields):
    grid = Grid(Box((0, 0, 0), shape), (4, 4, 4))
    return [
        Step("first", toys.nothing, first or {}, grid, **fields),
        Step("second", toys.nothing, second or {}, grid, after=("first",), upper=upper),
    ]


def changed(old, new):
    return {name for name in old if old[name] != new.get(name)}


def test_keys_depend_on_nothing_else():
    assert keys_of(pair(first={"a": [1, 2], "b": 1})) == keys_of(pair(first={"b": 1, "a": (1, 2)}))
    assert len(set(keys_of(pair()).values())) == 16


@pytest.mark.parametrize("other", [pair(first={"a": 1}), pair(version=2)])
def test_a_change_reaches_everything_that_follows(other):
    old, new = keys_of(pair()), keys_of(other)
    reached = {("first", (1, 1, 1)), ("second", (1, 1, 1)), ("second", (0, 0, 0))}
    assert reached <= changed(old, new)


def test_a_change_leaves_what_comes_before():
    assert {name for name, _ in changed(keys_of(pair()), keys_of(pair(second={"a": 1})))} == {
        "second"
    }


def test_another_input_changes_everything():
    assert len(changed(keys_of(pair()), keys_of(pair(), identity={"input": {"url": "b"}}))) == 16


def test_where_things_lie_does_not_matter():
    there = [
        Step("s", toys.nothing, {"url": u, "a": 1}, pair()[0].grid, paths=("url",)) for u in "ab"
    ]
    assert fingerprint(there[0]) == fingerprint(there[1])
    assert essence(there[0]) == {"a": 1}


def test_growth_changes_what_touches_the_growing_side_and_what_reads_it():
    old = keys_of(pair(shape=(12, 8, 8), upper=(1, 0, 0)), shape=(12, 8, 8))
    new = keys_of(pair(shape=(16, 8, 8), upper=(1, 0, 0)), shape=(16, 8, 8))
    layers = {(name, index[0]) for name, index in changed(old, new)}
    # The last layer touched the side; the layer before it reads the last one.
    assert layers == {("first", 2), ("second", 2), ("second", 1)}


def test_the_volume_beyond_the_region_of_interest_is_input_as_well():
    inside = pair(shape=(4, 4, 4), lower=(2, 2, 2))
    assert changed(keys_of(inside, shape=(4, 4, 4)), keys_of(inside, shape=(8, 8, 8))) == set()
    reading = [Step("s", toys.nothing, {}, inside[0].grid, upper=(2, 2, 2))]
    assert changed(keys_of(reading, shape=(4, 4, 4)), keys_of(reading, shape=(8, 8, 8)))


def test_parameters_that_are_no_json_are_refused():
    with pytest.raises(ConfigError, match="parameter of step 's' is no plain JSON value"):
        essence(Step("s", toys.nothing, {"a": object()}, pair()[0].grid))
    with pytest.raises(ConfigError, match="step 's'"):
        essence(Step("s", toys.nothing, {"a": float("nan")}, pair()[0].grid))


def test_blocks_that_read_everything_are_quick_to_hash(monkeypatch):
    grid = Grid(Box((0, 0, 0), (1, 1, 300)), (1, 1, 1))
    looked = []
    overlapping = Grid.overlapping
    monkeypatch.setattr(
        Grid, "overlapping", lambda self, box: looked.append(box) or overlapping(self, box)
    )
    wide = (0, 0, 300)
    steps = [
        Step("first", toys.nothing, {}, grid),
        Step("second", toys.nothing, {}, grid, after=("first",), lower=wide, upper=wide),
    ]
    keys_of(steps, shape=(1, 1, 300))
    assert len(looked) == 1
