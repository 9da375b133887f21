"""moto's S3 in a thread of this process: a mock that answers within milliseconds. It checks no signatures."""

from collections.abc import Iterator
from contextlib import contextmanager

from moto.server import ThreadedMotoServer

from tests.servers.base import BUCKET, Server


@contextmanager
def running() -> Iterator[Server]:
    """An S3 that has BUCKET and nothing in it."""
    thread = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    thread.start()
    host, port = thread.get_host_and_port()
    try:
        server = Server(endpoint=f"http://{host}:{port}", access_key="TESTKEY", secret_key="test-secret-of-moto")
        server.client().create_bucket(Bucket=BUCKET)
        yield server
    finally:
        thread.stop()
