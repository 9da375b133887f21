"""`python -m bench.s3`: putting packs with our S3 store beside boto3's managed transfer, in one run.

Both put the same objects from memory, from as many threads, in turns: to a sink that takes bodies as quickly as a
socket can, and to a real Ceph gateway (scripts/install-test-s3), whose own work on the same cores then is most of the
time. CPU is that of this process alone. Machines are noisy: read the ratios.

MB, ROUNDS and THREADS in the environment set how much is put (256), how often (3), and from how many threads (4).
"""

import io
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from boto3.s3.transfer import TransferConfig

from criu_agent.store.s3 import S3Store
from tests.servers import ceph
from tests.servers.base import BUCKET, Server

PACK = 16 << 20
COUNT = max(1, (int(os.environ.get("MB", "256")) << 20) // PACK)
ROUNDS = int(os.environ.get("ROUNDS", "3"))
THREADS = int(os.environ.get("THREADS", "4"))
GB = COUNT * PACK / 1e9
TARGETS = {"throughput": 5.0, "CPU": 0.25}

# An answer for every request, after its body was read into one buffer.
SINK = """
import socket, sys, threading

def serve(connection):
    buffer, head = bytearray(1 << 20), b""
    while True:
        while b"\\r\\n\\r\\n" not in head:
            got = connection.recv(65536)
            if not got:
                return
            head += got
        lines, _, rest = head.partition(b"\\r\\n\\r\\n")
        fields = dict(line.lower().split(b": ", 1) for line in lines.split(b"\\r\\n")[1:])
        if fields.get(b"expect") == b"100-continue":
            connection.sendall(b"HTTP/1.1 100 Continue\\r\\n\\r\\n")
        left = int(fields.get(b"content-length", 0)) - len(rest)
        while left > 0:
            left -= connection.recv_into(buffer, min(left, len(buffer)))
        head = b""
        body = b""
        if b"?uploads" in lines:
            body = b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
        elif lines.startswith(b"POST"):
            body = b"<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>"
        answer = b"HTTP/1.1 200 OK\\r\\nETag: \\"1\\"\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body)
        connection.sendall(answer + body)

listener = socket.socket(fileno=int(sys.argv[1]))
while True:
    connection, _ = listener.accept()
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
"""


@contextmanager
def sink() -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        argv = [sys.executable, "-c", SINK, str(listener.fileno())]
        process = subprocess.Popen(argv, pass_fds=[listener.fileno()])
        port = listener.getsockname()[1]
    try:
        yield Server(endpoint=f"http://127.0.0.1:{port}", access_key="KEY", secret_key="secret")
    finally:
        process.kill()
        process.wait()


def measured(put: Callable[[str, bytes], object], packs: list[bytes]) -> tuple[float, float]:
    """GB/s, and CPU seconds per GB."""
    area = secrets.token_hex(8)
    with ThreadPoolExecutor(THREADS) as pool:
        began, cpu = time.perf_counter(), time.process_time()
        done = [pool.submit(put, f"{area}/{number}", pack) for number, pack in enumerate(packs)]
        for future in done:
            future.result()
        return GB / (time.perf_counter() - began), (time.process_time() - cpu) / GB


def ours(server: Server) -> Callable[[str, bytes], object]:
    os.environ.update(server.environment)
    return S3Store(BUCKET, "ours").put


def managed(server: Server) -> Callable[[str, bytes], object]:
    """boto3's managed transfer as it is when nobody sets anything."""
    client: Any = server.client(default=True)
    config = TransferConfig()
    return lambda key, pack: client.upload_fileobj(io.BytesIO(pack), BUCKET, f"boto3/{key}", Config=config)


def compare(name: str, server: Server, packs: list[bytes], clean: Callable[[], object]) -> bool:
    puts = {"criu-agent": ours(server), "boto3": managed(server)}
    for put in puts.values():  # connections and credentials
        measured(put, packs[:1])
    found: dict[str, list[tuple[float, float]]] = {who: [] for who in puts}
    for _ in range(ROUNDS):
        for who, put in puts.items():
            found[who].append(measured(put, packs))
            clean()
    rate = {who: statistics.median(one[0] for one in values) for who, values in found.items()}
    cpu = {who: statistics.median(one[1] for one in values) for who, values in found.items()}
    for who in puts:
        print(f"{name:8} {who:12} {rate[who]:6.2f} GB/s  {cpu[who]:6.2f} CPU s/GB")
    ratios = rate["criu-agent"] / rate["boto3"], cpu["criu-agent"] / cpu["boto3"]
    met = ratios[0] >= TARGETS["throughput"] and ratios[1] <= TARGETS["CPU"]
    print(f"{name:8} ratio        {ratios[0]:6.2f}       {ratios[1]:6.2f}      {'met' if met else 'missed'}")
    return met


def main() -> None:
    packs = [secrets.token_bytes(PACK) for _ in range(COUNT)]
    print(f"{COUNT} packs of {PACK >> 20} MiB, {THREADS} threads, median of {ROUNDS}; target {TARGETS}")
    with sink() as server:
        compare("sink", server, packs, lambda: None)
    with tempfile.TemporaryDirectory() as directory, ceph.running(Path(directory)) as server:
        client = server.client()

        def clean() -> None:
            for entry in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
                client.delete_object(Bucket=BUCKET, Key=entry["Key"])

        compare("ceph", server, packs, clean)


if __name__ == "__main__":
    main()
