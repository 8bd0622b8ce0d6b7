import random

import numpy as np
import pytest
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.blocks import Blocks, Ticket, check_order
from pipeline.errors import ConfigError
from pipeline.geometry import Box, Grid, octree
from pipeline.steps import Step

sides = st.tuples(*[st.integers(1, 9)] * 3)
margins = st.tuples(*[st.integers(0, 3)] * 3)


def drain(blocks, steps, seed=0, failing=()):
    """Everything in the order in which it is handed out, with random blocks in flight."""
    rng = random.Random(seed)
    order, flying = [], []
    while True:
        before = -1
        while (passed := blocks.passed()) != before:
            before = passed
            for step in reversed(steps):
                while len(flying) < 5 and (ticket := blocks.acquire(step.name)):
                    flying.append(ticket)
        if not flying:
            return order
        ticket: Ticket = flying.pop(rng.randrange(len(flying)))
        name = (ticket.step, ticket.index)
        if name not in failing:
            order.append(name)
        blocks.release(ticket, done=name not in failing)


def empty(steps):
    return {step.name: np.zeros(step.grid.counts, np.uint8) for step in steps}


def needs(step, index, steps):
    by_name = {each.name: each for each in steps}
    read = step.grid.at(index).box.grow(step.lower, step.upper)
    return [
        (name, block.index) for name in step.after for block in by_name[name].grid.overlapping(read)
    ]


def graph(roi, block, lower, upper):
    grid = Grid(roi, block)
    levels = octree(grid)
    steps = [
        Step("a", toys.nothing, {}, grid),
        Step("b", toys.nothing, {}, grid, after=("a",), lower=lower, upper=upper),
    ]
    for level, each in enumerate(levels):
        after = ("b",) if level == 0 else (f"up-{level - 1}", "a")
        steps.append(Step(f"up-{level}", toys.nothing, {}, each, after=after))
    whole = Grid(roi, roi.end)
    steps.append(Step("all", toys.nothing, {}, whole, after=("b",)))
    steps.append(Step("end", toys.nothing, {}, grid, after=("all", steps[-2].name)))
    return steps


@settings(deadline=None, max_examples=40)
@given(sides, sides, sides, margins, margins, st.integers(0, 9))
def test_blocks_come_once_and_after_what_they_need(offset, shape, block, lower, upper, seed):
    steps = graph(Box(offset, shape), block, lower, upper)
    with Blocks(steps, empty(steps)) as blocks:
        order = drain(blocks, steps, seed)
        assert blocks.unfinished() == []
    place = {name: i for i, name in enumerate(order)}
    assert len(place) == len(order) == sum(len(step.grid) for step in steps)
    for step in steps:
        for block_ in step.grid:
            for needed in needs(step, block_.index, steps):
                assert place[needed] < place[step.name, block_.index]


def test_a_block_that_waits_for_very_many_waits_for_all_of_them():
    roi = Box((0, 0, 0), (9, 9, 9))
    steps = graph(roi, (1, 1, 1), (0, 0, 0), (0, 0, 0))
    with Blocks(steps, empty(steps)) as blocks:
        order = drain(blocks, steps)
    last = max(i for i, (name, _) in enumerate(order) if name == "b")
    assert order.index(("all", (0, 0, 0))) > last


def test_what_is_done_is_not_handed_out_but_counts_for_others():
    steps = graph(Box((0, 0, 0), (4, 4, 4)), (2, 2, 2), (0, 0, 0), (1, 1, 1))
    masks = empty(steps)
    masks["a"][:] = 1
    masks["b"][1, 0, 1] = 1
    with Blocks(steps, masks) as blocks:
        order = drain(blocks, steps)
    assert "a" not in {name for name, _ in order}
    assert ("b", (1, 0, 1)) not in order
    assert len(order) == sum(len(step.grid) for step in steps) - 9


def test_blocks_that_need_a_failed_one_are_orphans_and_the_rest_goes_on():
    grid = Grid(Box((0, 0, 0), (8, 2, 2)), (2, 2, 2))
    steps = [
        Step("a", toys.nothing, {}, grid),
        Step("b", toys.nothing, {}, grid, after=("a",)),
        Step("c", toys.nothing, {}, grid, after=("b",)),
    ]
    with Blocks(steps, empty(steps)) as blocks:
        order = drain(blocks, steps, failing={("a", (1, 0, 0))})
        assert blocks.orphans() == {"a": 0, "b": 1, "c": 1}
        assert blocks.unfinished() == []
    assert {index for name, index in order if name == "c"} == {(0, 0, 0), (2, 0, 0), (3, 0, 0)}


def test_steps_are_refused_that_come_before_what_they_need():
    grid = Grid(Box((0, 0, 0), (2, 2, 2)), (2, 2, 2))
    first = Step("a", toys.nothing, {}, grid, after=("b",))
    second = Step("b", toys.nothing, {}, grid)
    with pytest.raises(ConfigError, match="step 'a' needs 'b', which no step before it"):
        check_order([first, second])
    with pytest.raises(ConfigError, match="two steps are called 'b'"):
        check_order([second, second])
    check_order([second, first])
