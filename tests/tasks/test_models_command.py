"""`raphe models` lists what is installed, each part with the first line of what it says."""

import json

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from tasks.registry import KINDS, parts


@pytest.fixture(scope="module")
def listed():
    result = CliRunner().invoke(main, ["models", "--json"], catch_exceptions=False)
    return json.loads(result.output)


def test_every_kind_and_the_shipped_models_are_listed(listed):
    assert list(listed) == [*KINDS, "models"]
    assert {"bce", "dice", "malis"} <= {each["name"] for each in listed["losses"]}
    assert all(each["summary"] for group in listed.values() for each in group)
    shipped = {each["name"]: each["summary"] for each in listed["models"]}
    assert shipped["fib25-affinities"].startswith("unet, 10 × 10 × 10 nm, uint8: ")


def test_people_see_one_line_for_each(listed):
    result = CliRunner().invoke(main, ["models"], catch_exceptions=False)
    lines = result.output.splitlines()
    assert lines[0] == "networks"
    assert len(lines) == sum(1 + len(group) for group in listed.values()) + len(listed) - 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_is_listed_by_the_kind_that_yaml_names(kind):
    for name, part in parts(kind).items():
        assert part.model_fields["kind"].default == name
