"""The reference page of the configuration, made from the models that check it.

``python -m pipeline.reference`` prints ``docs/configuration.md``; a test holds the
two equal, so that the page cannot say anything but what the code does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pipeline.config import Config

INTRODUCTION = """\
# Configuration

Generated from `pipeline/config.py` by `make docs`. `raphe init RAW` writes a configuration with
the fields that a volume needs; fields that are left out have the defaults below, but those of
`predict` and `segment` that the model itself has found best (`defaults` in its `model.yaml`).
Fields that are not listed here are errors. Thresholds on affinities are fractions of 1;
coordinates, shapes and voxel sizes are in the order z, y, x. Relative paths begin at the folder in
which `raphe` is called.
"""


Refer = Callable[[dict[str, Any]], str | None]
"""What to say of a JSON schema that another part of the page describes; None to spell it out."""


def render() -> str:
    """The page as Markdown."""
    return "\n".join([INTRODUCTION, *_table("", Config)]) + "\n"


def _table(name: str, model: type[BaseModel]) -> Iterator[str]:
    """A heading and a table for a model, then those of the models in its fields."""
    if name:
        yield f"\n## {name}\n"
        yield f"{(model.__doc__ or '').splitlines()[0]}\n"
    yield "| field | values | default | meaning |"
    yield "|---|---|---|---|"
    nested = {}
    for key, field in model.model_fields.items():
        inner = _model_in(field.annotation)
        if inner is None:
            values = _values(model, key)
        else:
            path = f"{name}.{key}".lstrip(".")
            values = f"[see below](#{path.replace('.', '')})"
            nested[path] = inner
        yield row(key, values, field)
    for path, inner in nested.items():
        yield from _table(path, inner)


def row(key: str, values: str, field: FieldInfo) -> str:
    """A field's row of the table, with its values in words."""
    return f"| `{key}` | {values} | {_default(field)} | {_escaped(field.description or '')} |"


def _model_in(annotation: Any) -> type[BaseModel] | None:
    candidates = (annotation, *getattr(annotation, "__args__", ()))
    models = (c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return next(models, None)


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, BaseModel):
        return "as below"
    return f"`{json.dumps(field.default)}`"


def _values(model: type[BaseModel], key: str) -> str:
    return in_words(model.model_json_schema()["properties"][key])


def in_words(schema: dict[str, Any], refer: Refer = lambda _: None) -> str:
    """A JSON schema in a few words, as a cell of a table."""
    return _escaped(_type(schema, refer))


def _type(schema: dict[str, Any], refer: Refer) -> str:
    if (found := refer(schema)) is not None:
        return found
    if "anyOf" in schema:
        return " or ".join(_type(option, refer) for option in schema["anyOf"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if schema["type"] == "array":
        items = schema.get("prefixItems")
        if items:
            return f"[{', '.join(_type(item, refer) for item in items)}]"
        return f"list of {_type(schema['items'], refer)}"
    if isinstance(inner := schema.get("additionalProperties"), dict):
        return f"a name: {_type(inner, refer)}, …"
    return f"{schema['type']}{_bounds(schema)}"


def _bounds(schema: dict[str, Any]) -> str:
    names = {
        "minimum": "≥",
        "exclusiveMinimum": ">",
        "maximum": "≤",
        "exclusiveMaximum": "<",
        "pattern": "like",
    }
    found = [f"{sign} {schema[name]}" for name, sign in names.items() if name in schema]
    return f" {', '.join(found)}" if found else ""


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    click.echo(render(), nl=False)
