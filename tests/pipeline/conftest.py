"""A bucket on loopback for tests of s3."""

import urllib.request

import pytest


@pytest.fixture(scope="session")
def s3_server():
    moto = pytest.importorskip("moto.server", reason="needs the dev extra (moto)")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    request = urllib.request.Request(f"http://{host}:{port}/bucket", method="PUT")
    urllib.request.urlopen(request)
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_environment(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)


@pytest.fixture
def bucket(s3_server, s3_environment, monkeypatch):
    """URL of an s3 bucket."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    return "s3://bucket"
