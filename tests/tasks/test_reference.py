"""The reference page of trainings says what the models and the registry say."""

from pathlib import Path

import pytest

from tasks.models_command import summary
from tasks.reference import SECTIONS, own_parts, render
from tasks.registry import KINDS
from tasks.train.options import Optimiser

PAGE = Path(__file__).parents[2] / "docs" / "parts.md"
PARTS = [part for kind in KINDS for part in own_parts(kind).values()]


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == render(), "docs/parts.md is old: run `make docs`"


@pytest.mark.parametrize("model", [*SECTIONS, *PARTS])
def test_every_field_is_described(model):
    page = render()
    for name, field in model.model_fields.items():
        if name == "kind":
            continue
        assert field.description, f"{model.__name__}.{name} has no description"
        assert f"| `{field.alias or name}` |" in page
        assert field.description.replace("|", "\\|") in page


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_has_a_section(kind):
    section = render().partition(f"\n## {kind}\n")[2]
    for name, part in own_parts(kind).items():
        assert f"\n### {name}\n\n{summary(part)}\n" in section


def test_links_lead_to_headings():
    page = render()
    for target in ("networks", "targets", "losses", "augmentations", "optimiser", "validate"):
        assert f"](#{target})" in page
        assert f"\n## {target}\n" in page
    assert "| `levels` | list of [see below](#level) | required |" in page
    assert "\n#### level\n" in page
    assert "| `losses` | a name: list of [a loss](#losses), … | `{}` |" in page


def test_a_model_without_a_section_is_an_error(monkeypatch):
    monkeypatch.delitem(SECTIONS, Optimiser)
    with pytest.raises(KeyError, match="no section of the page describes Optimiser"):
        render()
