"""Objects by name under a URL: where tables, markers and records are kept.

The same TensorStore key-value drivers and credentials serve the arrays, so a
URL scheme works for all of a run or for none. A write replaces a whole object
atomically; there is no other kind of write.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

import tensorstore as ts

from pipeline.errors import VolumeError

_SCHEMES = ("file://", "s3://", "gs://", "memory://")


def kvstore_url(url: str) -> str:
    """A path or URL as a TensorStore key-value store URL that names a folder."""
    if "://" not in url:
        url = Path(url).resolve().as_uri()
    if not url.startswith(_SCHEMES):
        raise VolumeError(
            f"cannot store anything at {url!r}: the scheme is not one of {', '.join(_SCHEMES)}. "
            "Give a local path or a URL with one of these schemes."
        )
    return url.rstrip("/") + "/"


@functools.lru_cache(maxsize=1)
def context() -> ts.Context:
    """The TensorStore context that every store and array of a process shares."""
    return ts.Context({"data_copy_concurrency": {"limit": "shared"}})


@functools.lru_cache(maxsize=64)
def open_store(url: str) -> Store:
    """The store under `url`, one per process."""
    return Store(url)


class Store:
    """Whole objects under a URL.

    Parameters
    ----------
    url : str
        Local path, or ``file://``, ``s3://``, ``gs://``, ``memory://`` URL of a folder.

    Examples
    --------
    >>> store = Store("memory://docs/")
    >>> store.write("a/b", b"bytes")
    >>> store.read("a/b"), store.read("a/c"), store.list("a/")
    (b'bytes', None, ['a/b'])
    """

    def __init__(self, url: str) -> None:
        self.url = kvstore_url(url)
        self._kv = ts.KvStore.open(self.url, context=context()).result()

    def read(self, name: str) -> bytes | None:
        """The bytes of an object, or None if there is none."""
        found = self._kv.read(name).result()
        return bytes(found.value) if found.state == "value" else None

    def write(self, name: str, data: bytes) -> None:
        """Replace an object by `data`, whole or not at all."""
        self._kv.write(name, data).result()

    def write_many(self, objects: Iterable[tuple[str, bytes]]) -> None:
        """Replace several objects, each whole or not at all, at the same time."""
        for future in [self._kv.write(name, data) for name, data in objects]:
            future.result()

    def delete(self, name: str) -> None:
        """Remove an object; nothing happens if there is none."""
        self._kv.write(name, None).result()

    def delete_prefix(self, prefix: str) -> None:
        """Remove every object whose name begins with `prefix`."""
        self._kv.delete_range(_prefix(prefix)).result()

    def list(self, prefix: str = "") -> list[str]:
        """Sorted names of the objects that begin with `prefix`."""
        return sorted(key.decode() for key in self._kv.list(_prefix(prefix)).result())


def _prefix(prefix: str) -> ts.KvStore.KeyRange:
    if not prefix:
        return ts.KvStore.KeyRange()
    raw = prefix.encode()
    return ts.KvStore.KeyRange(raw, raw[:-1] + bytes([raw[-1] + 1]))
