"""A store whose server is behind the fault proxy, and one that is not: one each for a module, an area for a test."""

import secrets
from collections.abc import Callable, Iterator

import pytest

from criu_agent.store.s3 import S3Store
from criu_agent.store.s3_retry import Patience
from tests.faults.proxy import FaultProxy
from tests.servers import moto
from tests.servers.base import BUCKET, Server

# A loaded machine answers late: silence must be longer than that.
PATIENT = Patience(total=60, request=2, silence=2, pause=0.01, pause_throttled=0.01, pause_limit=0.1)
IMPATIENT = Patience(total=0.5, request=2, silence=2, pause=0.01, pause_throttled=0.01, pause_limit=0.1)
ONCE = Patience(total=0, request=2, silence=2)
Open = Callable[..., S3Store]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with moto.running() as running:
        yield running


@pytest.fixture(scope="module")
def environment(server: Server) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def proxy(server: Server, environment: None) -> Iterator[FaultProxy]:
    with FaultProxy(server.endpoint) as running:
        yield running


@pytest.fixture(scope="module")
def direct(environment: None) -> S3Store:
    """The objects as they are, without the proxy."""
    return S3Store(BUCKET, "faults")


@pytest.fixture(scope="module")
def behind(proxy: FaultProxy) -> Open:
    """behind(patience, conditional=...): a store that the proxy stands before."""
    made: dict[tuple[Patience, bool], S3Store] = {}

    def store(patience: Patience = PATIENT, *, conditional: bool = True) -> S3Store:
        kind = (patience, conditional)
        if kind not in made:
            made[kind] = S3Store(
                BUCKET, "faults", endpoint_url=proxy.endpoint, patience=patience, conditional=conditional
            )
        return made[kind]

    return store


def new_area() -> str:
    """What the names of one use begin with."""
    return secrets.token_hex(8)
