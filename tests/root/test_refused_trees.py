"""A tree that CRIU cannot carry is refused before it is frozen: what, where, and what to do. It never notices."""

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Agent, await_true
from tests.counting import assert_counts_on, assert_untouched, is_gone, numbers, processes

COUNT = """
import time
n = 0
while True:
    n += 1
    print(n, flush=True)
    time.sleep(0.05)
"""
PERF = """
import ctypes, struct
attributes = struct.pack("IIQQQQQ", 1, 64, 0, 0, 0, 0, 1 << 0).ljust(64, b"\\0")  # a software event, the CPU clock
libc = ctypes.CDLL(None)
fd = libc.syscall({"x86_64": 298, "aarch64": 241}[__import__("os").uname().machine], attributes, 0, -1, -1, 0)
assert fd == 3, fd
"""
USERFAULTFD = """
import ctypes, os
fd = ctypes.CDLL(None).syscall({"x86_64": 323, "aarch64": 282}[os.uname().machine], os.O_CLOEXEC)
assert fd == 3, fd
"""
VSOCK = """
import socket
vsock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
assert vsock.fileno() == 3
"""
UNIX = """
import socket
client = socket.socket(socket.AF_UNIX)
client.connect("outside.sock")
assert client.fileno() == 3
"""
SECRET_MEMORY = """
import ctypes
fd = ctypes.CDLL(None).syscall(447, 0)
assert fd == 3, fd
"""


def assert_refused(agent: Agent, *wanted: str) -> None:
    """Plan, checkpoint and suspend say the same, with all of `wanted`; the run goes on and nothing is left."""
    planned = agent("plan", "counter", check=False)
    assert planned.code == 16, planned
    refused = [row for row in agent("plan", "counter", "--json", check=False).json if row["action"] == "refuse"]
    assert refused
    assert all(row["fix"] and row["object"] and row["reason"] for row in refused)
    for verb in ("checkpoint", "suspend"):
        outcome = agent(verb, "counter", check=False)
        assert outcome.code == 16, outcome
        for text in (*wanted, refused[0]["object"], refused[0]["reason"], f"hint: {refused[0]['fix']}"):
            assert text in outcome.err, outcome
        assert "(the agent: running, unharmed)" in outcome.err
        assert refused[0]["object"] in planned.err
        assert_untouched(agent)
    assert_counts_on(agent)
    assert agent("snapshots", "--json").json == []


def assert_works_now(agent: Agent) -> None:
    agent("checkpoint", "counter")
    assert_counts_on(agent)


def start(agent: Agent, setup: str) -> None:
    (agent.workdir / "counter.py").write_text(setup + COUNT)
    agent("run", "-d", "--name", "counter", "--", "python3", "counter.py")
    await_true(lambda: len(numbers(agent)) > 2, "it counts")


@pytest.mark.parametrize(
    ("setup", "thing"),
    [
        pytest.param(PERF, "anon_inode:[perf_event]", id="perf_event"),
        pytest.param(USERFAULTFD, "anon_inode:[userfaultfd]", id="userfaultfd"),
        pytest.param(VSOCK, "vsock", id="vsock"),
        pytest.param(SECRET_MEMORY, "/secretmem", id="memfd_secret"),
    ],
)
def test_a_descriptor_that_criu_cannot_dump_is_named(agent: Agent, setup: str, thing: str) -> None:
    start(agent, setup)
    assert_refused(agent, "pid ", "(python3) fd 3", thing)


@contextmanager
def outside_server(path: Path) -> Iterator[Callable[[], socket.socket]]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        yield lambda: server.accept()[0]


def test_half_of_a_unix_stream_is_refused_until_it_ends(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(agent.workdir)  # the whole path may be too long for a socket
    with outside_server(Path("outside.sock")) as accept:
        start(agent, UNIX)
        connection = accept()
        assert_refused(agent, "pid ", "(python3) fd 3", "unix stream")
        connection.close()
    assert_works_now(agent)


def test_a_nested_user_namespace_is_refused(agent: Agent) -> None:
    script = f"unshare --user --map-root-user sleep 1000 & exec python3 -c '{COUNT}'"
    agent("run", "-d", "--name", "counter", "--", "sh", "-c", script)
    await_true(lambda: len(numbers(agent)) > 2, "it counts")
    await_true(lambda: namespaces(agent, "user") == 2, "the namespace is there")
    assert_refused(agent, "(sleep)", "nested user namespace", "--no-sandbox")
    agent("exec", "counter", "pkill", "sleep")
    await_true(lambda: namespaces(agent, "user") == 1, "the namespace is gone")
    assert_works_now(agent)


def namespaces(agent: Agent, kind: str) -> int:
    """In how many namespaces of that kind the run is, as far as it has come to its program."""
    found = set()
    for pid in processes(agent):
        with contextlib.suppress(OSError):  # it has just ended
            if program(pid) != "unshare":
                found.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
    return len(found)


def program(pid: int) -> str:
    """Its name; "" when it has ended."""
    return "" if is_gone(pid) else Path(f"/proc/{pid}/comm").read_text().rstrip("\n")


def test_a_bubblewrap_sandbox_is_refused(agent: Agent) -> None:
    sandbox = "bwrap --dev-bind / / --unshare-user --unshare-pid --proc /proc sleep 1000"
    agent("run", "-d", "--name", "counter", "--", "sh", "-c", f"{sandbox} & exec python3 -c '{COUNT}'")
    await_true(lambda: len(numbers(agent)) > 2, "it counts")
    await_true(lambda: "sleep" in map(program, processes(agent)), "it is there")
    assert_refused(agent, "nested", "namespace")
    agent("exec", "counter", "pkill", "-KILL", "bwrap")
    await_true(lambda: namespaces(agent, "user") == 1, "the sandbox is gone")
    assert_works_now(agent)


def test_a_traced_process_is_refused_until_the_tracer_lets_go(
    agent: Agent, ended: "list[subprocess.Popen[bytes]]"
) -> None:
    start(agent, "")
    traced = next(pid for pid in processes(agent) if program(pid) == "python3")
    strace = subprocess.Popen(["strace", "-o", "/dev/null", "-p", str(traced)], stderr=subprocess.DEVNULL)
    ended.append(strace)
    await_true(lambda: f"TracerPid:\t{strace.pid}\n" in Path(f"/proc/{traced}/status").read_text(), "it is traced")
    planned = agent("plan", "counter", check=False)
    assert planned.code == 16
    for verb in ("checkpoint", "suspend"):
        outcome = agent(verb, "counter", check=False)
        assert outcome.code == 16
        assert f"(python3) python3 counter.py: strace (pid {strace.pid}) traces it" in outcome.err
        assert "hint: detach" in outcome.err
    assert_counts_on(agent)
    strace.terminate()
    strace.wait()
    assert_works_now(agent)
    assert_untouched(agent)


def test_what_the_plan_did_not_see_criu_refuses_and_nothing_is_left(agent: Agent) -> None:
    """The second line of defence: a descriptor that comes and goes is sometimes met by CRIU only."""
    flicker = """
import socket, threading
def flicker():
    while True:
        vsock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        vsock.close()
threading.Thread(target=flicker, daemon=True).start()
"""
    start(agent, flicker)
    refused = 0
    for _ in range(100):
        outcome = agent("checkpoint", "counter", check=False)
        assert outcome.code in (0, 16), outcome
        if outcome.code == 16:
            assert "vsock" in outcome.err
            assert "running, unharmed" in outcome.err
            refused += 1
        assert_untouched(agent)
        if refused == 4:
            break
    assert refused == 4, "it is there at every second look, more or less"
    assert_counts_on(agent)
