"""An HTTP proxy that stands before an S3 server and spoils what it is told to: requests, answers, connections.

It reads a request whole, applies the next fault of its plan, and closes the connection. The signature stays right,
since the Host header is passed on; moto does not look at it.
"""

import http.client
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit

_SLOW_DOWN = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>please reduce your rate</Message></Error>'
_INTERNAL = b'<?xml version="1.0"?><Error><Code>InternalError</Code><Message>we failed</Message></Error>'
_PAGE = b"<html><body>Log in to this network</body></html>"


@dataclass(frozen=True)
class Seen:
    method: str
    path: str
    headers: dict[str, str]


@dataclass(frozen=True)
class Reply:
    """An answer of the server behind, or of ours."""

    status: int
    headers: dict[str, str]
    body: bytes

    def head(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} Any", *(f"{name}: {value}" for name, value in self.headers.items())]
        return "\r\n".join([*lines, "Connection: close", "", ""]).encode()


Fault = Callable[["Exchange"], None]


class Exchange(BaseHTTPRequestHandler):
    """One request, and what a fault can do with it."""

    protocol_version = "HTTP/1.1"
    server: "FaultProxy"
    body: bytes

    def handle_method(self) -> None:
        self.close_connection = True
        fault = self.server.next_fault(self)
        if fault is cut_request:
            return fault(self)
        self.body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        return fault(self)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_method

    def forward(self) -> Reply:
        """Have the server behind do it."""
        connection = http.client.HTTPConnection(self.server.upstream, timeout=60)
        headers = {
            name: value for name, value in self.headers.items() if name.lower() not in ("expect", "connection")
        }
        try:
            connection.request(self.command, self.path, body=self.body, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        dropped = ("connection", "transfer-encoding", "content-length")
        kept = {name: value for name, value in answer.getheaders() if name.lower() not in dropped}
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        return Reply(answer.status, {**kept, "Content-Length": length or str(len(body))}, body)

    def send(self, data: bytes) -> None:
        try:
            self.wfile.write(data)
            self.wfile.flush()
        except OSError:
            pass  # it has gone away meanwhile

    def reset(self) -> None:
        """End the connection with RST instead of FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def hang(self) -> None:
        self.server.closing.wait(60)

    def log_message(self, format: str, *args: object) -> None:
        pass


# --- faults


def none(it: Exchange) -> None:
    reply = it.forward()
    it.send(reply.head() + reply.body)


def late(it: Exchange) -> None:
    time.sleep(0.2)
    none(it)


def drop(it: Exchange) -> None:
    """The request is not done, the connection just ends."""


def cut_request(it: Exchange) -> None:
    """RST after some bytes of the request's body."""
    it.rfile.read(min(1000, int(it.headers.get("Content-Length", "0"))))
    it.reset()


def slow_down(it: Exchange) -> None:
    reply = Reply(503, {"Content-Type": "application/xml", "Content-Length": str(len(_SLOW_DOWN))}, _SLOW_DOWN)
    it.send(reply.head() + (b"" if it.command == "HEAD" else reply.body))


def silent(it: Exchange) -> None:
    """The request is not done, and no answer ever comes."""
    it.hang()


def lost(it: Exchange) -> None:
    """The request is done, the answer is lost."""
    it.forward()
    it.reset()


def lost_and_silent(it: Exchange) -> None:
    it.forward()
    it.hang()


def failed_after(it: Exchange) -> None:
    """The request is done, and the answer says that it was not."""
    it.forward()
    reply = Reply(500, {"Content-Type": "application/xml", "Content-Length": str(len(_INTERNAL))}, _INTERNAL)
    it.send(reply.head() + (b"" if it.command == "HEAD" else reply.body))


def short(it: Exchange) -> None:
    """The answer's body ends early."""
    reply = it.forward()
    it.send(reply.head() + reply.body[: len(reply.body) // 2])


def short_and_silent(it: Exchange) -> None:
    short(it)
    it.hang()


def half_a_head(it: Exchange) -> None:
    head = it.forward().head()
    it.send(head[: len(head) // 2])


def one_line(it: Exchange) -> None:
    """Of the answer only the status line arrives. http.client takes that for a whole head."""
    it.send(it.forward().head().split(b"\r\n")[0] + b"\r\n")


def login_page(it: Exchange) -> None:
    """Something else answers, as in the network of a hotel."""
    reply = Reply(200, {"Content-Type": "text/html", "Content-Length": str(len(_PAGE))}, _PAGE)
    it.send(reply.head() + (b"" if it.command == "HEAD" else reply.body))


def redirected(it: Exchange) -> None:
    host = it.headers["Host"]
    it.send(Reply(307, {"Location": f"http://{host}{it.path}", "Content-Length": "0"}, b"").head())


# ---


class FaultProxy(ThreadingHTTPServer):
    """`with FaultProxy(url) as proxy`: stands before the server `url`.

    `plan["area"]` are faults for requests whose path or query has "area" in it, taken one by one; `always["area"]`
    comes after them. What nobody planned is passed on.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, upstream: str, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.upstream = urlsplit(upstream).netloc
        self.plan: dict[str, list[Fault]] = {}
        self.always: dict[str, Fault] = {}
        self.seen: list[Seen] = []
        self.closing = threading.Event()
        self._tls = tls
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def endpoint(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.server_address[1]}"

    def next_fault(self, it: Exchange) -> Fault:
        with self._lock:
            self.seen.append(Seen(it.command, it.path, {name.lower(): value for name, value in it.headers.items()}))
            planned = next((faults for area, faults in self.plan.items() if area in it.path and faults), None)
            if planned:
                return planned.pop(0)
            return next((fault for area, fault in self.always.items() if area in it.path), none)

    def finish_request(self, request: object, client_address: object) -> None:
        tls = self._tls.wrap_socket(request, server_side=True) if self._tls else nullcontext(request)
        with tls as connection:
            super().finish_request(connection, client_address)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away, or that does not like our certificate, is what is tested here."""

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.closing.set()
        self.shutdown()
        self._thread.join()
        self.server_close()
