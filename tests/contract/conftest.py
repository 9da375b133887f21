"""The stores of the contract: memory, a directory, and S3 as moto, Ceph and Swift speak it.

The servers are started when the first test asks for one, and ended with the session: `-k 'not ceph and not swift'` is
quick. One that cannot be started fails the tests.
"""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from criu_agent.store.base import Store
from criu_agent.store.file import FileStore
from criu_agent.store.memory import MemoryStore
from criu_agent.store.s3 import S3Store
from tests.servers import ceph, moto, swift
from tests.servers.base import BUCKET, Server


@pytest.fixture(scope="session")
def moto_server() -> Iterator[Server]:
    with moto.running() as server:
        yield server


@pytest.fixture(scope="session")
def ceph_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with ceph.running(tmp_path_factory.mktemp("ceph")) as server:
        yield server


@pytest.fixture(scope="session")
def swift_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with swift.running(tmp_path_factory.mktemp("swift")) as server:
        yield server


def opened(kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store of that kind."""
    if kind == "memory":
        return MemoryStore()
    if kind == "directory":
        return FileStore(tmp_path / "some" / "repository")
    server: Server = request.getfixturevalue(f"{kind}_server")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return S3Store(BUCKET, f"some/{secrets.token_hex(8)}", conditional=kind != "swift")


@pytest.fixture(params=["memory", "directory", "moto", "ceph", "swift"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    return opened(request.param, request, tmp_path, monkeypatch)


@pytest.fixture(params=["memory", "directory", "moto", "ceph"])
def conditional_store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Those whose writers exclude each other."""
    return opened(request.param, request, tmp_path, monkeypatch)
