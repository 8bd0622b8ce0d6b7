"""Objects by name under a URL: where tables, markers and records are kept.

The same TensorStore key-value drivers and credentials serve the arrays, so a
URL scheme works for all of a run or for none. A write replaces a whole object
atomically; there is no other kind of write.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import tensorstore as ts

from pipeline.errors import TableError, VolumeError
from pipeline.remedies import storage_errors

_SCHEMES = ("file://", "s3://", "gs://", "memory://")

_RETRIES = {"max_retries": 4, "initial_delay": "250ms", "max_delay": "2s"}
"""A request to s3 or gs is given up after about 4 s: a wrong URL must fail at
once, and a block that fails for a passing reason is tried again by the schedule."""


def kvstore_url(url: str) -> str:
    """A path or URL as a TensorStore key-value store URL that names a folder."""
    if "://" not in url:
        url = Path(url).resolve().as_uri()
    if not url.startswith(_SCHEMES):
        raise VolumeError(
            f"the scheme of {url!r} is not one of {', '.join(_SCHEMES)}, where arrays and "
            "tables can be kept. Give a local path or a URL with one of these schemes."
        )
    return url.rstrip("/") + "/"


def kvstore(url: str) -> str | dict[str, Any]:
    """What TensorStore opens for a path or URL of a folder.

    ``s3://`` buckets away from Amazon are found through ``AWS_ENDPOINT_URL``
    (and ``AWS_REGION``), as by the other tools that speak this protocol.
    """
    full = kvstore_url(url)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not full.startswith("s3://") or not endpoint:
        return full
    parts = urlsplit(full)
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return {
        "driver": "s3",
        "bucket": parts.netloc,
        "path": unquote(parts.path.lstrip("/")),
        "endpoint": endpoint,
        "aws_region": region,
    }


@functools.lru_cache(maxsize=1)
def context() -> ts.Context:
    """The TensorStore context that every store and array of a process shares."""
    return ts.Context(
        {
            "data_copy_concurrency": {"limit": "shared"},
            # The default locks a file beside the object and writes into it. If a killed
            # process left one that is longer than what is written next, the next object
            # ends with the rest of it. Without locks, every write has a file of its own
            # that is renamed when it is complete.
            "file_io_locking": {"mode": "none"},
            "s3_request_retries": _RETRIES,
            "gcs_request_retries": _RETRIES,
        }
    )


def open_store(url: str) -> Store:
    """The store under `url`, one per process."""
    # By the full URL: a path that is relative to another working directory is another one.
    return _opened(kvstore_url(url))


@functools.lru_cache(maxsize=64)
def _opened(url: str) -> Store:
    return Store(url)


def parse_json(data: bytes, name: str) -> Any:
    """The value of JSON text; `name` is for the error message.

    Raises
    ------
    TableError
        If it is damaged.
    """
    try:
        return json.loads(data)
    except ValueError as error:
        raise TableError(
            f"{name} is damaged ({error}). Delete it; the next run makes it again."
        ) from error


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
        with storage_errors("open", self.url):
            self._kv = ts.KvStore.open(kvstore(url), context=context()).result()

    def read(self, name: str) -> bytes | None:
        """The bytes of an object, or None if there is none."""
        return self._read(name)[0]

    def read_json(self, name: str) -> Any:
        """The value of a JSON object, or None if there is none.

        Raises
        ------
        TableError
            If the object is damaged.
        """
        data = self.read(name)
        return None if data is None else parse_json(data, f"{self.url}{name}")

    def write(self, name: str, data: bytes) -> None:
        """Replace an object by `data`, whole or not at all."""
        with storage_errors("write", self.url + name):
            self._kv.write(name, data).result()

    def write_many(self, objects: Iterable[tuple[str, bytes]]) -> None:
        """Replace several objects, each whole or not at all, at the same time."""
        with storage_errors("write to", self.url):
            for future in [self._kv.write(name, data) for name, data in objects]:
                future.result()

    def update(self, name: str, change: Callable[[bytes | None], bytes | None]) -> None:
        """Replace an object by `change` of it, though others do the same at once.

        `change` is given the present bytes (None if there are none) and returns
        the new ones, or None to leave things as they are; it may be called
        again if somebody else was quicker.
        """
        parts = urlsplit(self.url)
        folder = Path(unquote(parts.path))
        # Files are locked; other stores compare and swap.
        with _locked(folder / name) if parts.scheme == "file" else nullcontext():
            while not self._replace(name, change):
                pass

    def delete(self, name: str) -> None:
        """Remove an object; nothing happens if there is none."""
        with storage_errors("delete", self.url + name):
            self._kv.write(name, None).result()

    def delete_many(self, names: Iterable[str]) -> None:
        """Remove several objects at the same time."""
        with storage_errors("delete from", self.url):
            for future in [self._kv.write(name, None) for name in names]:
                future.result()

    def delete_prefix(self, prefix: str) -> None:
        """Remove every object whose name begins with `prefix`."""
        with storage_errors("delete", self.url + prefix):
            self._kv.delete_range(_prefix(prefix)).result()

    def list(self, prefix: str = "") -> list[str]:
        """Sorted names of the objects that begin with `prefix`."""
        with storage_errors("list", self.url + prefix):
            return sorted(key.decode() for key in self._kv.list(_prefix(prefix)).result())

    def _replace(self, name: str, change: Callable[[bytes | None], bytes | None]) -> bool:
        old, generation = self._read(name)
        new = change(old)
        if new is None or new == old:
            return True
        with storage_errors("write", self.url + name):
            stamp = self._kv.write(name, new, if_equal=generation).result()
        return bool(stamp.generation)

    def _read(self, name: str) -> tuple[bytes | None, bytes]:
        with storage_errors("read", self.url + name):
            found = self._kv.read(name).result()
        return (bytes(found.value) if found.state == "value" else None), found.stamp.generation


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Keep other updates of the file `target` out, in this process and in others."""
    # TensorStore never lists names that end like this.
    path = target.with_name(f"{target.name}.update.__lock")
    held = None
    while held is None:
        with storage_errors("lock", str(target)):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab")
        fcntl.flock(file, fcntl.LOCK_EX)
        # The one who held it before may have removed it: then it is nobody's lock.
        if _is_at(path, file.fileno()):
            held = file
        else:
            file.close()
    try:
        yield
    finally:
        path.unlink()
        held.close()


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _prefix(prefix: str) -> ts.KvStore.KeyRange:
    if not prefix:
        return ts.KvStore.KeyRange()
    raw = prefix.encode()
    return ts.KvStore.KeyRange(raw, raw[:-1] + bytes([raw[-1] + 1]))
