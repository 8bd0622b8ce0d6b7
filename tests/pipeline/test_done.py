"""What is redone after a change, and what is said about it."""

import dataclasses
import json

import pytest
import toys

from pipeline.arrays import create_array
from pipeline.done import markers, review
from pipeline.fingerprint import Keys
from pipeline.geometry import Box
from pipeline.store import Store


def outcome(made, steps):
    """Blocks run by step, and what was printed."""
    summary, text = toys.run(made, steps)
    return {each.name: each.done for each in summary.steps if each.done}, text


def test_a_second_run_does_nothing(tmp_path):
    made = toys.job(str(tmp_path / "o"))
    done, text = outcome(made, toys.chain(made))
    assert done == {"source": 8, "context": 8, "up-0": 8, "up-1": 1, "end": 8}
    assert "redone" not in text
    before = toys.numbers(made.config.output)
    done, text = outcome(made, toys.chain(made))
    assert done == {}
    assert "everything is done already" in text
    assert toys.numbers(made.config.output) == before


def test_a_changed_parameter_redoes_what_depends_on_it_and_says_why(tmp_path):
    made = toys.job(str(tmp_path / "o"))
    toys.run(made, toys.chain(made))
    changed = toys.chain(made, {"context": {"value": 5}})
    done, text = outcome(made, changed)
    assert done == {"context": 8, "up-0": 8, "up-1": 1, "end": 8}
    assert "context: 8 blocks are redone: value changed from 1 to 5" in text
    assert "up-0: 8 blocks are redone: follows from context" in text
    assert "source" not in text.replace("follows from source", "")
    scratch = toys.job(str(tmp_path / "scratch"))
    toys.run(scratch, toys.chain(scratch, {"context": {"value": 5}}))
    assert toys.numbers(made.config.output) == toys.numbers(scratch.config.output)


def test_a_new_version_of_a_step_redoes_it(tmp_path):
    made = toys.job(str(tmp_path / "o"))
    toys.run(made, toys.chain(made))
    done, text = outcome(made, toys.chain(made, {"end": {"version": 2}}))
    assert done == {"end": 8}
    assert "end: 8 blocks are redone: the step's code changed, version 1 to 2" in text


def test_a_deleted_output_is_made_again_with_what_follows(tmp_path):
    made = toys.job(str(tmp_path / "o"))
    toys.run(made, toys.chain(made))
    before = toys.numbers(made.config.output)
    Store(made.config.output).delete_prefix("toys/context/")
    done, text = outcome(made, toys.chain(made))
    assert done == {"context": 8, "up-0": 8, "up-1": 1, "end": 8}
    assert "context: 8 blocks are redone: toys/context/ is gone" in text
    assert toys.numbers(made.config.output) == before


def test_one_deleted_object_is_noticed(tmp_path):
    made = toys.job(str(tmp_path / "o"))
    toys.run(made, toys.chain(made))
    Store(made.config.output).delete("toys/end/0.1.0")
    done, text = outcome(made, toys.chain(made))
    assert done == {"end": 8}
    assert "end: 8 blocks are redone: 1 objects of toys/end/ are gone" in text


def test_markers_are_gone_before_anything_is_redone(tmp_path):
    made = toys.job(str(tmp_path / "o"), retries=0)
    toys.run(made, toys.chain(made))
    broken = toys.chain(made, {"source": {"value": 5, "fails": {"0.0.0": 99}}})
    with pytest.raises(Exception, match="1 blocks failed"):
        toys.run(made, broken)
    left = {step: len(markers(Store(made.config.output), step)) for step in ("source", "up-1")}
    assert left == {"source": 7, "up-1": 0}
    # Back to the parameters of the first run: what was overwritten counts no more.
    done, _ = outcome(made, toys.chain(made))
    assert done == {"source": 8, "context": 8, "up-0": 8, "up-1": 1, "end": 8}


def test_a_run_without_a_step_forgets_its_markers(tmp_path):
    made = toys.job(str(tmp_path / "o"))
    steps = toys.chain(made)
    toys.run(made, steps)
    done, _ = outcome(made, steps[:1])
    assert done == {}
    assert markers(Store(made.config.output), "context") == {}
    done, _ = outcome(made, steps)
    assert done == {"context": 8, "up-0": 8, "up-1": 1, "end": 8}


def test_what_a_step_wrote_goes_with_it(tmp_path):
    """A coarser level or a table that nobody keeps up would tell of other labels."""
    made = toys.job(str(tmp_path / "o"))
    coarse = f"{made.config.output}/labels/s1"
    for name in ("s0", "s1"):
        create_array(
            f"{made.config.output}/labels/{name}",
            shape=(4, 4, 4),
            dtype="uint8",
            block=(4, 4, 4),
            voxel_size=(10 * (1 + int(name[1])),) * 3,
            kind="labels",
        )
    steps = [toys.step(made, "source"), toys.step(made, "coarse")]
    steps[1] = dataclasses.replace(steps[1], outputs=("labels/s1/", *steps[0].outputs))
    toys.run(made, steps)
    _, text = toys.run(made, steps[:1])
    assert "removed, since this run has no such steps: coarse" in text
    assert not Store(coarse).list()
    group = json.loads(Store(f"{made.config.output}/labels").read("zarr.json"))
    assert [each["path"] for each in group["attributes"]["ome"]["multiscales"][0]["datasets"]] == [
        "s0"
    ]
    assert Store(made.config.output).list("toys/source/")  # another step writes there, too


def test_a_block_is_not_done_while_what_it_reads_is_not(tmp_path):
    made = toys.job(str(tmp_path / "o"))
    steps = toys.chain(made)
    toys.run(made, steps)
    store = Store(made.config.output)
    gone = next(name for name in markers(store, "source") if "/1.1.1-" in name)
    store.delete(gone)
    found = review(store, steps, Keys(steps, Box((0, 0, 0), made.shape), made.identity))
    assert found["source"].done == 7
    assert found["context"].done == 0  # all of them read one voxel of block 1.1.1
    assert found["end"].done == 0


def test_growth_keeps_the_blocks_whose_inputs_did_not_change(tmp_path):
    made = toys.job(str(tmp_path / "o"), shape=(16, 4, 4))
    toys.run(made, toys.chain(made))
    grown = dataclasses.replace(made, shape=(24, 4, 4), roi=Box((0, 0, 0), (24, 4, 4)))
    done, _ = outcome(grown, toys.chain(grown))
    assert done["source"] == 3  # two new ones, and the one at the side that grew
    assert done["context"] == 4
    scratch = toys.job(str(tmp_path / "scratch"), shape=(24, 4, 4))
    toys.run(scratch, toys.chain(scratch))
    assert toys.numbers(made.config.output) == toys.numbers(scratch.config.output)


def test_markers_tell_the_key_the_time_and_the_counters(tmp_path):
    made = toys.job(str(tmp_path / "o"))
    toys.run(made, toys.chain(made)[:1])
    store = Store(made.config.output)
    ((name, (block, key)), *_) = markers(store, "source").items()
    assert name == f"done/source/{block}-{key}"
    assert f'"key": "{key}"'.encode() in store.read(name)
    assert b'"counters": {"blocks": 1}' in store.read(name)
