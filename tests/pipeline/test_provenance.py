import dataclasses
import json

import pytest
import toys

from pipeline.config import parse
from pipeline.errors import ConfigError
from pipeline.geometry import Box
from pipeline.provenance import check_continuable, write_provenance
from pipeline.store import Store


@pytest.fixture
def made(tmp_path):
    return toys.job(str(tmp_path / "o"))


@pytest.fixture
def store(made):
    store = Store(made.config.output)
    write_provenance(store, made, toys.chain(made))
    return store


def test_what_a_run_was_made_from_and_with_is_kept(made, store):
    steps = [toys.step(made, "predict", weights="abc"), *toys.chain(made)]
    write_provenance(store, made, steps)
    record = json.loads(store.read("provenance.json"))
    assert record["identity"] == made.identity
    assert record["model"] == "abc"
    assert list(record["steps"])[:2] == ["predict", "source"]
    assert len(record["runs"]) == 2
    assert {"numpy", "raphe", "tensorstore"} <= record["runs"][0]["versions"].keys()
    assert parse(store.read("raphe.yaml").decode(), "raphe.yaml") == made.config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identity": {"input": {"url": "other"}}}, "made with another input"),
        ({"voxel_size": (1.0, 1.0, 2.0)}, r"another voxel size: \[1.0, 1.0, 1.0\], now"),
        ({"translation": (0.0, 4.0, 0.0)}, "made with another translation"),
        ({"roi": Box((0, 0, 0), (8, 8, 7))}, r"from \(0, 0, 0\) to \(8, 8, 8\).*would remain"),
    ],
)
def test_what_cannot_be_continued_is_refused(made, store, change, message):
    with pytest.raises(ConfigError, match=f"{message}.*Choose another output, or delete this"):
        check_continuable(store, dataclasses.replace(made, **change))


def test_another_block_is_refused(made, store):
    other = toys.job(made.config.output, block=(2, 2, 2))
    with pytest.raises(ConfigError, match=r"made with another block: \[4, 4, 4\], now \[2, 2, 2\]"):
        check_continuable(store, other)


def test_two_acquisitions_never_share_an_output(made, store):
    other = toys.job(made.config.output, identity={"input": {"url": "elsewhere/toy"}})
    with pytest.raises(ConfigError, match="another input"):
        toys.run(other, toys.chain(other))


def test_a_larger_region_and_another_mask_can_be_continued(made, store):
    grown = dataclasses.replace(made, shape=(9, 8, 8), roi=Box((0, 0, 0), (9, 8, 8)))
    check_continuable(store, grown)
    check_continuable(store, dataclasses.replace(made, identity=made.identity | {"mask": {}}))


def test_an_empty_output_can_be_continued(tmp_path, made):
    check_continuable(Store(str(tmp_path / "new")), made)
