"""The reference page says what the models say."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from pipeline import config
from pipeline.reference import render

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == render(), "docs/configuration.md is old: run `make docs`"


@pytest.mark.parametrize(
    "model",
    [v for v in vars(config).values() if isinstance(v, type) and issubclass(v, BaseModel)],
)
def test_every_field_is_described(model):
    for name, field in model.model_fields.items():
        assert field.description, f"{model.__name__}.{name} has no description"
        assert f"| `{name}` |" in render()


def test_bounds_choices_and_defaults_are_shown():
    page = render()
    assert "| `absorb_size` | integer ≥ 0, ≤ 1000000000000000 | `600` |" in page
    assert '| `relabel` | `"packed"` or `"consecutive"` | `"packed"` |' in page
    assert "| `supervoxel` | [see below](#segmentsupervoxel) | as below |" in page
    assert "| `output` | string | required |" in page
