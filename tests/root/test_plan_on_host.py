"""A plan of real processes: each thing that CRIU refuses is provoked, found by the plan, and tried on CRIU itself."""

import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from criu_agent import config
from criu_agent.criu import command
from criu_agent.errors import NotFound
from criu_agent.linux import proc
from criu_agent.model import PlanRow
from criu_agent.ops import plan
from criu_agent.ops.facts import gather
from tests.conftest import PATIENCE, await_true

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

# man 2 syscalls: those before Linux 5.1 have a number for each architecture
NUMBERS = {
    "x86_64": {"perf_event_open": 298, "bpf": 321, "userfaultfd": 323},
    "aarch64": {"perf_event_open": 241, "bpf": 280, "userfaultfd": 282},
}[platform.machine()]

PRELUDE = f"""
import array, ctypes, fcntl, mmap, os, signal, socket, struct, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True)
perf_event_open, bpf, userfaultfd = {NUMBERS["perf_event_open"]}, {NUMBERS["bpf"]}, {NUMBERS["userfaultfd"]}
def call(*args):
    fd = libc.syscall(*args)
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd
def inside():
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)
def programs(pids):
    return sorted(open(f"/proc/{{pid}}/comm").read().strip() for pid in pids)
def children(pid):
    return open(f"/proc/{{pid}}/task/{{pid}}/children").read().split()
def wait_for(forked, pid, *wanted):
    "Until the process, or forked: its children, are these programs"
    while programs(children(pid) if forked else [pid]) != [*wanted]:
        time.sleep(0.01)
"""


@dataclass(frozen=True, kw_only=True)
class Started:
    """A process that has done what it was told, and what it said of it: the number of a descriptor, or a pid."""

    pid: int
    said: str
    directory: Path

    def plan(self) -> list[PlanRow]:
        return plan.plan(self.pid)

    def refused(self) -> list[PlanRow]:
        return plan.refusals(self.plan())


Start = Callable[..., Started]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts Python with a source in a session of its own; all of the session is killed at the end."""
    running: list[subprocess.Popen[bytes]] = []

    def starter(source: str, *, wrap: Sequence[str] = (), pass_fds: Sequence[int] = ()) -> Started:
        directory = tmp_path / str(len(running))
        directory.mkdir()
        done = directory / "done"
        tail = f"\nopen({str(directory / 'new')!r}, 'w').write(str(globals().get('say', '')))\n"
        tail += f"os.rename({str(directory / 'new')!r}, {str(done)!r})\nwhile True: time.sleep(60)\n"
        with open(directory / "output", "w+") as output:
            child = subprocess.Popen(
                [*wrap, sys.executable, "-c", PRELUDE + source + tail],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=pass_fds,
            )
        running.append(child)
        await_true(lambda: done.exists() or child.poll() is not None, "it is ready")
        if not done.exists():
            pytest.skip("this kernel has it not: " + (directory / "output").read_text().splitlines()[-1])
        return Started(pid=child.pid, said=done.read_text(), directory=directory)

    yield starter
    for child in running:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def criu_dump(started: Started, *, leave_running: bool = True) -> tuple[int, str]:
    """The exit status of a real dump with the options of the product, and its log."""
    criu = config.load().criu
    if not criu.exists():
        pytest.fail(f"{criu} is not there: scripts/install-criu")
    images = started.directory / "images"
    images.mkdir()
    argv = command.dump(
        criu,
        pid=started.pid,
        images=images,
        work=started.directory,
        log_file="dump.log",
        externals=(),
        stage_script=Path(shutil.which("true") or "true"),
        leave_running=leave_running,
        network_lock="skip",
    )
    code = subprocess.run(argv, capture_output=True, timeout=PATIENCE, check=False).returncode
    return code, (started.directory / "dump.log").read_text(errors="replace")


# What is opened, what readlink or the plan calls it, and what CRIU says to it.
REFUSED = {
    "io_uring": (
        "say = call(425, 1, ctypes.create_string_buffer(200))",
        "anon_inode:[io_uring]",
        "send_fds failed",
    ),
    "perf_event": (
        "attr = struct.pack('IIQ', 1, 120, 0) + bytes(120)\nsay = call(perf_event_open, attr, 0, -1, -1, 0)",
        "anon_inode:[perf_event]",
        "Can't dump file 3 of that type",
    ),
    "userfaultfd": ("say = call(userfaultfd, 0)", "anon_inode:[userfaultfd]", "Can't dump file 3 of that type"),
    "bpf map": (
        "say = call(bpf, 0, struct.pack('IIII', 2, 4, 4, 1) + bytes(100), 72)",
        "anon_inode:bpf-map",
        "Can't dump file 3 of that type",
    ),
    "landlock": (
        "say = call(444, struct.pack('Q', 1), 8, 0)",
        "anon_inode:[landlock-ruleset]",
        "Can't dump file 3 of that type",
    ),
    "memfd_secret": ("say = call(447, 0)", "/secretmem (deleted)", "Can't lookup mount"),
    "vsock": ("kept = socket.socket(40, 1)\nsay = kept.fileno()", "af_vsock socket:[", "Unknown socket collected"),
    "MPTCP": ("kept = socket.socket(2, 1, 262)\nsay = kept.fileno()", "mptcp socket:[", "Unsupported proto 262"),
    "unread netlink": (
        "kept = socket.socket(16, 3, 0)\nkept.bind((0, 0))\nsay = kept.fileno()\n"
        "kept.send(struct.pack('=IHHIIBxHiII', 32, 18, 0x301, 1, 0, 0, 0, 0, 0, 0))",
        "netlink socket:[",
        "The socket has data to read",
    ),
    "packet pipe": ("kept, say = os.pipe2(os.O_DIRECT)\nos.close(kept)", "pipe:[", "packetized mode"),
    "thread pidfd": ("say = os.pidfd_open(os.getpid(), os.O_EXCL)", "anon_inode:[pidfd]", "PIDFD_THREAD"),
    "outside pidfd": ("say = os.pidfd_open(os.getppid())", "anon_inode:[pidfd]", "not a part of process tree"),
    "fuse device": ("say = os.open('/dev/fuse', os.O_RDWR)", "/dev/fuse", "Can't dump file 3 of that type"),
    "tun device": ("say = os.open('/dev/net/tun', os.O_RDWR)", "/dev/net/tun", "Net namespace is required"),
    "unaccepted sender": (
        "a = socket.socket(1, 1)\na.bind('')\na.listen()\nb = socket.socket(1, 1)\nb.connect(a.getsockname())\n"
        "b.send(b'x')\nsay = b.fileno()",
        "unix stream established",
        "Non-empty write queue",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_descriptor_that_criu_refuses_is_found_and_criu_refuses_it(start: Start, name: str) -> None:
    source, named, complaint = REFUSED[name]
    started = start(source)
    (row,) = started.refused()
    assert (row.pid, row.program, row.fd) == (started.pid, proc.comm(started.pid), int(started.said))
    assert row.object.startswith(named)
    assert row.fix
    code, log = criu_dump(started)
    assert code != 0
    assert complaint in log
    assert proc.comm(started.pid) == row.program, "the refused dump did not harm it"


NESTED = {
    "user": ("--user",),
    "pid": ("--pid", "--fork"),
    "ipc": ("--ipc",),
    "uts": ("--uts",),
    "time": ("--time", "--fork"),
    "cgroup": ("--cgroup",),
}


@pytest.mark.parametrize("kind", NESTED)
def test_a_nested_namespace_is_found_and_criu_refuses_it(start: Start, kind: str) -> None:
    argv = ["unshare", *NESTED[kind], "sleep", "60"]
    started = start(f"child = subprocess.Popen({argv!r})\nwait_for({'--fork' in argv}, child.pid, 'sleep')")
    refused = started.refused()
    assert {row.kind for row in refused} == {"namespace"}
    assert f"{kind} namespace" in {row.object for row in refused}
    code, log = criu_dump(started)
    assert code != 0
    assert f"Can't dump nested {kind}" in log


def test_a_nested_network_of_a_run_on_the_hosts_network_is_refused(start: Start) -> None:
    source = "child = subprocess.Popen(['unshare', '--net', 'sleep', '60'])\nwait_for(False, child.pid, 'sleep')"
    assert [row.object for row in start(source).refused()] == ["net namespace"]


def test_a_traced_process_is_found_and_criu_refuses_it(start: Start) -> None:
    if shutil.which("strace") is None:
        pytest.fail("strace is not installed: scripts/install-test-needs")
    started = start("")
    tracer = subprocess.Popen(
        ["strace", "-o", "/dev/null", "-p", str(started.pid)], stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        await_true(lambda: proc.process(started.pid).tracer_pid == tracer.pid, "it is traced")
        (row,) = started.refused()
        assert (row.kind, row.pid) == ("process", started.pid)
        assert f"strace (pid {tracer.pid})" in row.reason
        assert criu_dump(started)[0] != 0
    finally:
        tracer.kill()
        tracer.wait()


def test_half_of_a_foreign_unix_stream_is_found_with_the_name_of_the_other_side(start: Start) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")
        listener.listen()
        started = start(f"s = socket.socket(1)\ns.connect({listener.getsockname().decode()!r})\nsay = s.fileno()")
        with listener.accept()[0]:
            (row,) = started.refused()
            code, log = criu_dump(started)
    assert (row.kind, row.pid, row.fd) == ("socket", started.pid, int(started.said))
    assert f"{proc.comm(os.getpid())} (pid {os.getpid()})" in row.reason
    assert code != 0
    assert "External socket is used" in log


def test_a_leaked_descriptor_is_found_and_criu_refuses_it(start: Start) -> None:
    with open("/etc/passwd") as leaked:
        wrap = ["unshare", "--mount", "--propagation", "private"]
        started = start("inside()", wrap=wrap, pass_fds=[leaked.fileno()])
        (row,) = [row for row in started.refused() if row.kind == "fd"]
        assert (row.pid, row.fd, row.object) == (started.pid, leaked.fileno(), "/etc/passwd")
        code, log = criu_dump(started)
    assert code != 0
    assert "Can't lookup mount" in log


SEALED = "fd = libc.memfd_create(b'x', 2)\nos.ftruncate(fd, 8192)\nlibc.fcntl(fd, 1033, 8)\n"


def test_a_sealed_memfd_that_is_mapped_is_found_and_fails_only_at_the_restore(start: Start) -> None:
    started = start(SEALED + "m = mmap.mmap(fd, 8192, mmap.MAP_SHARED, mmap.PROT_READ)")
    (row,) = started.refused()
    assert (row.kind, row.pid, row.object) == ("memory", started.pid, "/memfd:x (deleted)")
    assert criu_dump(started)[0] == 0


@pytest.mark.parametrize(
    "source",
    [
        "",
        "m = mmap.mmap(fd, 8192, mmap.MAP_PRIVATE, mmap.PROT_READ)",
        "g = os.open(f'/proc/self/fd/{fd}', os.O_RDONLY)\nos.close(fd)\n"
        "m = mmap.mmap(g, 8192, mmap.MAP_SHARED, mmap.PROT_READ)",
    ],
    ids=["unmapped", "private", "opened for reading"],
)
def test_a_sealed_memfd_that_a_restore_can_seal_again_is_not_refused(start: Start, source: str) -> None:
    assert start(SEALED + source).refused() == []


def test_another_user_is_refused_where_its_limits_cannot_be_read(start: Start) -> None:
    capable = bool(proc.capabilities(os.getpid()) >> proc.CAP_SYS_RESOURCE & 1)
    source = "r, w = os.pipe()\nif os.fork() == 0:\n    os.setuid(65534)\n    os.write(w, b'x')\n    time.sleep(60)\n"
    started = start(f"{source}os.read(r, 1)")
    assert [row.reason[:39] for row in started.refused()] == (
        [] if capable else ["cannot read the limits of uid 65534 gid"]
    )


CLEAN = """
a, b = socket.socketpair()
c, d = os.pipe()
shell = subprocess.Popen(['bash', '-c', 'sleep 60 & sleep 60 | cat'])
stopped = subprocess.Popen(['sleep', '60'])
stopped.send_signal(signal.SIGSTOP)
gone = subprocess.Popen(['true'])
deleted = open('deleted', 'w')
deleted.write('x')
deleted.flush()
os.unlink('deleted')
memory = os.memfd_create('x')
events = os.eventfd(0)
master, slave = os.openpty()
in_flight = os.pipe()
a.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [in_flight[0]]))])
os.close(in_flight[0])
wait_for(True, shell.pid, 'cat', 'sleep', 'sleep')
os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)
"""


def test_a_clean_tree_has_no_refusal_and_criu_dumps_it(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    started = start(CLEAN)
    rows = started.plan()
    assert plan.refusals(rows) == []
    reasons = {row.object: row.reason for row in rows if row.kind in ("fd", "process")}
    assert reasons[f"{tmp_path}/deleted (deleted)"] == "deleted: its content goes into the image"
    assert reasons["sleep 60"] in ("goes on where it was", "stopped, and stays stopped")
    assert reasons["true"] == "a zombie, and stays one"
    assert {row.program for row in rows if row.kind == "process"} >= {"bash", "sleep", "cat", "true"}
    code, log = criu_dump(started)
    assert code == 0, log


def test_connections_are_told_with_their_ends(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        source = f"""
l = socket.create_server(('::', 0), family=socket.AF_INET6, dualstack_ipv6=True)
c = socket.create_connection(('127.0.0.1', l.getsockname()[1]))
s, _ = l.accept()
s.send(b'12345')
o = socket.create_connection(('127.0.0.1', {port}))
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.bind(('127.0.0.1', 0))
u.sendto(b'lost', u.getsockname())
"""
        started = start(source)
        told = plan.connections(gather(started.pid))
        lost = [row.reason for row in started.plan() if row.object.startswith("udp")]
    states = [(one["id"], one["protocol"], one["state"], one["internal"]) for one in told]
    assert states == [
        ("c1", "tcp", "listen", False),
        ("c2", "tcp", "established", True),
        ("c3", "tcp", "established", True),
        ("c4", "tcp", "established", False),
        ("c5", "udp", "close", False),
    ]
    assert told[1]["queued"] == 5
    assert (told[1]["local"], told[1]["remote"]) == (told[2]["remote"], told[2]["local"])
    assert told[3]["remote"] == f"127.0.0.1:{port}"
    assert "not yet read are lost" in lost[0]


def test_sockets_of_another_network_namespace_are_seen(start: Start) -> None:
    source = "a, b = socket.socketpair()\nl = socket.create_server(('127.0.0.1', 0))"
    started = start(source, wrap=["unshare", "--net"])
    before = Path("/proc/thread-self/ns/net").readlink()
    rows = started.plan()
    assert Path("/proc/thread-self/ns/net").readlink() == before
    unix = [row for row in rows if row.object == "unix stream established"]
    assert [row.reason for row in unix] == ["both ends are in the tree; what is in flight is kept"] * 2
    assert [one["state"] for one in plan.connections(gather(started.pid))] == ["listen"]


def test_a_pipe_to_the_outside_is_closed_and_its_holder_named(start: Start) -> None:
    reader, writer = os.pipe()
    try:
        started = start("", pass_fds=[writer])
        (row,) = [row for row in started.plan() if row.fd == writer]
        assert row.action == "close"
        assert f"(pid {os.getpid()})" in row.reason
        inode = os.fstat(reader).st_ino
        (row,) = [row for row in plan.plan(started.pid, stdio_pipes=frozenset({inode})) if row.fd == writer]
        assert row.action == "re-plug"
    finally:
        os.close(reader)
        os.close(writer)


def test_a_process_that_was_put_into_the_run_is_no_part_of_a_snapshot(start: Start) -> None:
    started = start("", wrap=["unshare", "--pid", "--fork"])
    (root,) = proc.children(started.pid)
    argv = ["nsenter", "--pid", "--target", str(root), "sleep", "60"]
    entered = subprocess.Popen(argv, start_new_session=True)
    try:
        await_true(lambda: [proc.comm(pid) for pid in proc.children(entered.pid)] == ["sleep"], "it is in")
        rows = plan.plan(root)
        assert [(row.program, row.action) for row in rows if row.action == "close" and row.kind == "process"] == [
            ("sleep", "close")
        ]
        assert next(row.pid for row in rows if row.kind == "process") == 1
    finally:
        os.killpg(entered.pid, signal.SIGKILL)
        entered.wait()


def test_shared_memory_is_counted_once_and_private_memory_for_each(start: Start) -> None:
    megabyte = 1 << 20
    source = f"""
shared = mmap.mmap(-1, 64 * {megabyte})
shared.write(b'x' * len(shared))
private = bytearray(os.urandom(32 * {megabyte}))
r, w = os.pipe()
if os.fork() == 0:
    private[::4096] = bytes(len(private) // 4096)
    shared.seek(0)
    shared.write(b'y' * len(shared))
    os.write(w, b'x')
    time.sleep(60)
os.read(r, 1)
"""
    size = proc.memory_to_dump(start(source).pid) // megabyte
    assert 64 + 2 * 32 <= size < 64 + 2 * 32 + 40


def test_a_process_that_is_gone_is_not_found(start: Start) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    with pytest.raises(NotFound):
        plan.plan(child.pid)
    with pytest.raises(ProcessLookupError):
        proc.start_time(child.pid)


def test_a_start_time_tells_two_processes_apart(start: Start) -> None:
    first = start("").pid
    second = start("time.sleep(0.05)").pid  # the clock of start times has ticks of 10 ms
    assert proc.start_time(first) == proc.start_time(first) < proc.start_time(second)


def test_a_plan_of_30_processes_and_1000_descriptors_is_quick(start: Start) -> None:
    source = "kept = [os.pipe() for _ in range(10)] + [socket.socketpair() for _ in range(8)]\n"
    source += "for _ in range(29):\n    if os.fork() == 0:\n        time.sleep(60)"
    started = start(source)
    await_true(lambda: len(proc.tree(started.pid)) == 30, "all are there")
    times = []
    for _ in range(3):
        began = time.thread_time()  # of the processor: what else the machine does is not the plan's fault
        rows = started.plan()
        times.append(time.thread_time() - began)
    assert len([row for row in rows if row.kind in ("fd", "socket")]) > 1000
    assert plan.refusals(rows) == []
    assert min(times) < 0.3, times
