"""moto's S3 in a process of its own: a mock that answers within milliseconds. It checks no signatures.

Not in a thread of ours, as moto offers too: tests count our threads, and its work would hold up theirs.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.servers.base import BUCKET, Server, answers, free_ports


@contextmanager
def running() -> Iterator[Server]:
    """An S3 that has BUCKET and nothing in it."""
    (port,) = free_ports(1)
    server = Server(endpoint=f"http://127.0.0.1:{port}", access_key="TESTKEY", secret_key="test-secret-of-moto")
    argv = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while not answers(server.endpoint):
            assert process.poll() is None, f"moto ended: {' '.join(argv)} says why"
            assert time.monotonic() < deadline, "moto never answered"
            time.sleep(0.05)
        server.client().create_bucket(Bucket=BUCKET)
        yield server
    finally:
        process.kill()
        process.wait()
