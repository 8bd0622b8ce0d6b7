"""Objects are replaced whole, by one of several at a time, on every kind of store."""

import http.server
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.errors import TableError, VolumeError
from pipeline.remedies import storage_errors
from pipeline.store import Store, kvstore, kvstore_url, open_store

KINDS = ["file", "memory", pytest.param("s3", marks=pytest.mark.s3)]


@pytest.fixture(params=KINDS)
def url(request, tmp_path):
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/{tmp_path.name}"
    return {"file": str(tmp_path), "memory": f"memory://{tmp_path.name}"}[request.param]


def test_objects_are_kept_under_their_names(url):
    store = open_store(url)
    store.write("a/b", b"1")
    store.write_many([("a/c", b"2"), ("d", b"")])
    assert store.read("a/b") == b"1"
    assert store.read("d") == b""
    assert store.read("a") is None
    assert store.list() == ["a/b", "a/c", "d"]
    assert store.list("a/") == ["a/b", "a/c"]
    store.delete_prefix("a/")
    store.delete("never was")
    assert store.list() == ["d"]


def test_update_sees_what_others_wrote_in_between(url):
    store = open_store(url)
    store.write("n", b"0")
    calls = []

    def increment(old):
        calls.append(old)
        if len(calls) == 1:
            store.write("n", b"10")
        return str(int(old) + 1).encode()

    store.update("n", increment)
    assert calls == [b"0", b"10"]
    assert store.read("n") == b"11"


def test_concurrent_updates_lose_nothing(url):
    store = open_store(url)

    def increment(_):
        store.update("n", lambda old: str(int(old or b"0") + 1).encode())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(increment, range(20)))
    assert store.read("n") == b"20"


def test_update_may_leave_an_object_alone(url):
    store = open_store(url)
    store.update("n", lambda old: None)
    assert store.read("n") is None


def test_lock_file_left_by_a_killed_process_does_no_harm(tmp_path):
    store = open_store(str(tmp_path))
    for name in ("a.__lock", "a.update.__lock"):
        (tmp_path / name).write_bytes(b"half of an older, longer object")
    store.write("a", b"new")
    store.update("a", lambda old: old + b"er")
    assert store.read("a") == b"newer"
    assert not (tmp_path / "a.update.__lock").exists()
    assert store.list() == ["a"]


def test_unknown_scheme_is_refused():
    with pytest.raises(VolumeError, match=r"scheme of 'ftp://host/x' is not one of file://, s3://"):
        open_store("ftp://host/x")


def test_local_paths_become_absolute_urls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert kvstore_url("a b") == (tmp_path / "a b").as_uri() + "/"


def test_s3_endpoint_is_taken_from_the_environment(monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    assert kvstore("s3://bucket/a/b") == "s3://bucket/a/b/"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert kvstore("s3://bucket/a/b") == {
        "driver": "s3",
        "bucket": "bucket",
        "path": "a/b/",
        "endpoint": "http://127.0.0.1:9",
        "aws_region": "eu-west-1",
    }


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(28, "No space left on device"), "disk is full: free some space"),
        (ValueError("PERMISSION_DENIED: Permission denied"), "check the permissions of the file"),
        (ValueError("DATA_LOSS: Digest mismatch"), "bytes are damaged: restore the object"),
        (ValueError("CURL error Could not resolve hostname"), "server cannot be reached"),
        (KeyError("?"), "Check the path or URL"),
    ],
)
def test_storage_errors_say_what_to_do(error, remedy):
    with (
        pytest.raises(VolumeError, match=f"cannot read x of s3://b/a: .*{remedy}"),
        storage_errors("read x of", "s3://b/a"),
    ):
        raise error


def test_defects_of_our_own_are_not_taken_for_storage_errors():
    with pytest.raises(TypeError), storage_errors("read", "x"):
        raise TypeError("a defect")


class Refusing(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(403)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *args):
        pass


@pytest.mark.s3
def test_refused_credentials_are_named(monkeypatch, s3_environment):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    with pytest.raises(VolumeError, match=r"s3://closed/x/a: .*or the credentials \(AWS_ACCESS"):
        open_store("s3://closed/x").read("a")
    server.shutdown()


@pytest.mark.s3
def test_server_that_is_away_is_given_up_soon(monkeypatch, s3_environment):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(VolumeError, match=r"All 4 retry attempts failed.*check the bucket's name"):
        open_store("s3://away/x").read("a")


FULL = """
import resource, signal, sys
from pipeline.store import open_store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
open_store(sys.argv[1]).write("a", bytes(5000))
"""


def test_write_that_does_not_fit_leaves_the_old_object(tmp_path):
    store = open_store(str(tmp_path))
    store.write("a", b"old")
    failed = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert "VolumeError: cannot write" in failed.stderr
    assert "disk is full: free some space" in failed.stderr
    assert store.read("a") == b"old"
    assert store.list() == ["a"]


def test_a_relative_path_follows_the_working_directory(tmp_path, monkeypatch):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        open_store("out").write("name", name.encode())
    assert (tmp_path / "one/out/name").read_text() == "one"
    assert (tmp_path / "other/out/name").read_text() == "other"


def test_a_damaged_record_is_named(tmp_path):
    store = Store(str(tmp_path))
    assert store.read_json("record.json") is None
    store.write("record.json", b'{"a": [1, 2]}')
    assert store.read_json("record.json") == {"a": [1, 2]}
    store.write("record.json", b'{"a": [1, ')
    with pytest.raises(TableError, match=r"record\.json is damaged .* Delete it"):
        store.read_json("record.json")
