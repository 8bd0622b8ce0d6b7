"""What a model says of its own use is a run's default, and never more than that."""

import pytest
from pydantic import ValidationError

from pipeline.config import Config
from pipeline.defaults import with_defaults
from tasks.networks.model import Defaults, find_model, load_network, save_model

FOUND = Defaults(
    segment={"threshold": 0.62, "absorb_size": 321, "supervoxel": None},
    predict={"tta": "flips", "output": "distances"},
)


@pytest.fixture
def model(tmp_path):
    description, network = load_network(find_model("fib25-affinities"))
    changed = description.model_copy(update={"defaults": FOUND})
    save_model(tmp_path / "model", changed, network.state_dict())
    return str(tmp_path / "model")


def test_a_run_takes_what_it_does_not_say_from_its_model(model):
    config = with_defaults(Config(raw="raw", output="out", model=model))
    assert (config.segment.threshold, config.segment.absorb_size) == (0.62, 321)
    assert config.segment.supervoxel is None
    assert (config.predict.tta, config.predict.output) == ("flips", "distances")
    assert with_defaults(config) == config


def test_what_the_user_wrote_stays(model):
    config = Config(
        raw="raw",
        output="out",
        model=[model],
        segment={"threshold": 0.5, "supervoxel": {"size": 7}},
        predict={"tta": "none"},
    )
    found = with_defaults(config)
    assert (found.segment.threshold, found.segment.supervoxel.size) == (0.5, 7)
    assert (found.segment.absorb_size, found.predict.output) == (321, "distances")
    assert found.predict.tta == "none"


def test_what_was_found_on_one_head_is_not_for_another(model):
    config = Config(raw="raw", output="out", model=model, predict={"output": "affinities"})
    found = with_defaults(config)
    assert found.segment == Config(raw="raw", output="out", model=model).segment
    assert (found.predict.output, found.predict.tta) == ("affinities", "flips")
    assert with_defaults(found) == found


def test_a_written_null_stays(model):
    found = with_defaults(Config(raw="raw", output="out", model=model, segment={"threshold": None}))
    assert found.segment.threshold is None


def test_without_a_model_nothing_changes():
    config = Config(affinities="affinities", output="out")
    assert with_defaults(config) == config


def test_defaults_are_fields_of_a_run():
    with pytest.raises(ValidationError, match="treshold"):
        Defaults(segment={"treshold": 0.5})
