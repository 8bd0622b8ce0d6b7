"""Tables as objects of a store: Arrow IPC for what steps hand on.

A table is one object, written whole. Columns are numpy arrays of the schema's
integer types; nothing is pickled. A table that is missing where one must be,
or that is not what was written, raises: an empty result is an empty table.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import TableError
from pipeline.store import open_store

Columns = dict[str, npt.NDArray[Any]]

_CHECKSUM = b"crc32"

_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


def encode(columns: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """A table as the bytes of an Arrow IPC file (columns of one length, 1-D)."""
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    # Arrow has no checksums: a flipped bit would become other numbers.
    table = table.replace_schema_metadata({_CHECKSUM: str(_checksum(columns))})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema, options=_OPTIONS) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def decode(data: bytes, name: str) -> Columns:
    """The columns of an Arrow IPC file; `name` is for the error message."""
    try:
        table = pa.ipc.open_file(pa.py_buffer(data)).read_all()
        columns = {
            key: np.ascontiguousarray(
                table.column(key).combine_chunks().to_numpy(zero_copy_only=False)
            )
            for key in table.column_names
        }
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _damaged(name, str(error)) from error
    if (table.schema.metadata or {}).get(_CHECKSUM) != str(_checksum(columns)).encode():
        raise _damaged(name, "its checksum does not match")
    return columns


def _checksum(columns: Mapping[str, npt.NDArray[Any]]) -> int:
    value = 0
    for name, column in columns.items():
        value = zlib.crc32(f"{name} {column.dtype} {len(column)}".encode(), value)
        value = zlib.crc32(np.ascontiguousarray(column).data, value)
    return value


def _damaged(name: str, reason: str) -> TableError:
    return TableError(
        f"table {name!r} is damaged ({reason}). Delete it; the next run makes it again."
    )


def write_table(url: str, name: str, columns: Mapping[str, npt.NDArray[Any]]) -> int:
    """Write a table under `url` as ``tables/<name>.arrow``; returns its bytes."""
    data = encode(columns)
    open_store(url).write(_object(name), data)
    return len(data)


def read_table(url: str, name: str) -> Columns:
    """Read what `write_table` wrote.

    Raises
    ------
    TableError
        If the table is missing or damaged.
    """
    data = open_store(url).read(_object(name))
    if data is None:
        raise TableError(
            f"table {name!r} is missing under {url!r}, though the step that writes it is "
            "marked as done. Delete the step's folder under done/ and run again."
        )
    return decode(data, name)


def concatenate(parts: Iterable[Columns], empty: Columns) -> Columns:
    """The rows of all `parts` in their order; `empty` gives columns and dtypes."""
    found = list(parts)
    return {
        name: np.concatenate([column, *(part[name] for part in found)]).astype(
            column.dtype, copy=False
        )
        for name, column in empty.items()
    }


def _object(name: str) -> str:
    return f"tables/{name}.arrow"
