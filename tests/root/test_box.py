"""The box: what a run sees of the host, what the host sees of it, and what of that a suspend and restore keep."""

import contextlib
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PATIENCE, Agent, Screen, await_true
from tests.counting import assert_counts_on, processes, start_counter, started

PROBE = """
import ctypes, errno, json, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    libc.syscall(number, *arguments)
    return errno.errorcode.get(ctypes.get_errno(), "ok")
def mptcp():
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"
print(json.dumps({
    "io_uring_setup": call(425, 8, ctypes.create_string_buffer(120)),
    "landlock_create_ruleset": call(444, None, 0, 1),
    "landlock_add_rule": call(445, -1, 1, None, 0),
    "landlock_restrict_self": call(446, -1, 0),
    "mptcp": mptcp(),
    "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")),
    "tmp": os.listdir("/tmp"),
    "tmp_mode": oct(os.stat("/tmp").st_mode & 0o7777),
    "run": sorted(os.listdir("/run")),
    "pid": os.getpid(),
    "pids": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
    "cwd": os.getcwd(),
    "root": sorted(os.listdir("/")),
    "tty": os.readlink("/dev/tty"),
    "dev": sorted(os.listdir("/dev")),
}))
"""


@pytest.fixture
def host_directory() -> Iterator[Path]:
    """A directory of the host that is no work directory, outside of /tmp (which a box has to itself)."""
    path = Path(f"/var/lib/criu-agent-test-{os.getpid()}")
    path.mkdir()
    yield path
    shutil.rmtree(path)


def probe(agent: Agent, **options: Any) -> dict[str, Any]:
    (agent.workdir / "probe.py").write_text(PROBE)
    with started(agent, "run", "--rm", "--", "python3", "probe.py", **options) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    return dict(json.loads(out))


def test_what_criu_cannot_carry_is_answered_as_if_the_kernel_did_not_have_it(agent: Agent) -> None:
    seen = probe(agent)
    unavailable = ("io_uring_setup", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self")
    assert {name: seen[name] for name in unavailable} == dict.fromkeys(unavailable, "ENOSYS")
    assert seen["mptcp"] == "ENOPROTOOPT"


def test_no_descriptor_of_the_caller_leaks_into_the_box(agent: Agent) -> None:
    leaked = [os.open("/etc/hostname", os.O_RDONLY) for _ in range(5)]
    reader, writer = os.pipe()
    for fd in (*leaked, reader, writer):
        os.set_inheritable(fd, True)
    seen = probe(agent, close_fds=False)
    for fd in (*leaked, reader, writer):
        os.close(fd)
    assert seen["fds"] == [0, 1, 2]


def test_tmp_is_empty_and_private(agent: Agent) -> None:
    seen = probe(agent)
    # The work directory of this test lies below /tmp: its mount point has to be there.
    beyond = Path("/tmp") in agent.workdir.parents
    assert seen["tmp"] == ([agent.workdir.parts[2]] if beyond else [])
    assert seen["tmp_mode"] == "0o1777"
    agent("run", "--", "sh", "-c", "echo secret >/tmp/of-the-box")
    assert not Path("/tmp/of-the-box").exists()


def test_pids_and_hostname_are_the_boxs_own(agent: Agent) -> None:
    seen = probe(agent)
    assert seen["pids"] == [1, seen["pid"]]
    assert seen["pid"] < 10
    hostname = os.uname().nodename
    assert agent("run", "--", "sh", "-c", "hostname inside && hostname").out == "inside\n"
    assert os.uname().nodename == hostname


def test_the_root_is_the_hosts_and_the_device_directory_is_small(agent: Agent) -> None:
    seen = probe(agent)
    assert set(seen["root"]) >= {"bin", "etc", "usr", "proc", "dev"} & set(os.listdir("/"))
    assert set(seen["dev"]) == {
        *("null", "zero", "full", "random", "urandom", "tty", "pts", "ptmx", "shm"),
        *("fd", "stdin", "stdout", "stderr"),
    }
    assert seen["tty"] == "pts/0"
    assert set(seen["run"]) <= {"criu-agent", "lock", "user", "systemd", "resolvconf", "NetworkManager"}


def test_the_work_directory_is_the_real_one_both_ways(agent: Agent) -> None:
    agent("run", "-d", "-i", "--name", "x", "--", "sh", "-c", "echo from-the-box >a; read line; cat b; echo $line")
    await_true(lambda: (agent.workdir / "a").exists(), "the host sees it at once")
    (agent.workdir / "b").write_text("from-the-host\n")
    with started(agent, "attach", "x", stdin=subprocess.PIPE) as attached:
        out, _ = attached.communicate(b"go\n", timeout=PATIENCE)
    assert out == b"from-the-host\ngo\n"
    assert (agent.workdir / "a").read_text() == "from-the-box\n"


def test_state_directory_and_repository_are_hidden(agent: Agent) -> None:
    start_counter(agent)
    agent("checkpoint", "counter")
    for hidden in (agent.directory / "state", agent.directory / "repository"):
        assert list(hidden.iterdir())
        assert agent("exec", "counter", "ls", "-A", str(hidden)).out == ""
    assert agent("exec", "counter", "ls", str(agent.directory / "run"), check=False).code != 0


def test_what_is_written_elsewhere_stays_in_the_box_and_survives(agent: Agent, host_directory: Path) -> None:
    """Two generations: new and changed files, deleted ones, a renamed directory, links, modes, in and out of /tmp."""
    for name in ("changed", "deleted", "untouched"):
        (host_directory / name).write_text(f"{name} of the host\n")
    (host_directory / "old-name").mkdir()
    (host_directory / "old-name/inner").write_text("inner\n")
    (host_directory / "tree/deep").mkdir(parents=True)
    before = tree_of(host_directory)
    script = f"""
        set -e
        cd {host_directory}
        echo new >new; echo more >>changed; rm deleted; mv old-name new-name; rm -r tree
        mkdir -m 700 private; ln -s new link; ln new hard; chmod 4755 hard; : >empty; mkfifo fifo
        echo of-tmp >/tmp/kept
        echo done >{agent.workdir}/done
        exec python3 {agent.workdir}/count.py
    """
    (agent.workdir / "count.py").write_text(
        "import time\nn = 0\nwhile True: n += 1; print(n, flush=True); time.sleep(0.05)\n"
    )
    agent("run", "-d", "--name", "counter", "--", "sh", "-c", script)
    await_true(lambda: (agent.workdir / "done").exists(), "all was written")
    seen = seen_in_box(agent, host_directory)
    for _ in range(2):
        agent("suspend", "counter")
        agent("resume", "-d", "counter")
        assert seen_in_box(agent, host_directory) == seen
    assert_counts_on(agent)
    assert tree_of(host_directory) == before, "nothing of it reached the host"
    assert "deleted" not in seen
    assert "old-name" not in seen
    assert agent("exec", "counter", "cat", f"{host_directory}/new-name/inner", "/tmp/kept").out == "inner\nof-tmp\n"
    assert agent("exec", "counter", "cat", f"{host_directory}/changed").out == "changed of the host\nmore\n"


def tree_of(directory: Path) -> list[tuple[str, int, bytes]]:
    return [
        (str(path), path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(directory.rglob("*"))
    ]


def seen_in_box(agent: Agent, directory: Path) -> str:
    """Names, types, modes, link counts, sizes and targets, as the box sees them."""
    return agent("exec", "counter", "sh", "-c", f"cd {directory} && find . -printf '%p %y %m %n %s %l\\n' | sort").out


def test_what_the_host_adds_later_is_seen_and_what_the_box_changed_wins(agent: Agent, host_directory: Path) -> None:
    (host_directory / "file").write_text("host\n")
    start_counter(agent)
    agent("exec", "counter", "sh", "-c", f"echo box >{host_directory}/file")
    assert (host_directory / "file").read_text() == "host\n"
    agent("suspend", "counter")
    (host_directory / "added").write_text("added\n")
    agent("resume", "-d", "counter")
    shown = agent("exec", "counter", "cat", f"{host_directory}/file", f"{host_directory}/added").out
    assert shown == "box\nadded\n"
    assert_counts_on(agent)


def test_the_control_socket_is_for_root_only(agent: Agent) -> None:
    start_counter(agent)
    path = Path(agent("inspect", "counter").json[0]["socket"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    # Even with the file permissions out of the way, a peer with another uid gets no answer.
    client = (
        "import socket, sys\n"
        "client = socket.socket(socket.AF_UNIX)\n"
        "client.connect(sys.argv[1])\n"
        'client.sendall(bytes([1, 0, 0, 0, 15]) + b\'{"verb":"ping"}\')\n'
        "sys.exit(len(client.recv(100)) > 0)\n"
    )
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    drop += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    ask = [sys.executable, "-c", client, path.name]  # in its directory: a socket's path has 107 bytes at most
    done = subprocess.run(
        [*drop, *ask], cwd=path.parent, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0 or "ConnectionResetError" in done.stderr or "BrokenPipeError" in done.stderr
    assert "Permission" not in done.stderr
    assert subprocess.run(ask, cwd=path.parent, timeout=PATIENCE, check=False).returncode == 1, "root is answered"
    log = next((agent.directory / "state/runs").glob("*/supervisor.log")).read_text()
    assert "uid 65534 was sent away" in log
    assert_counts_on(agent)


def test_garbage_on_the_control_socket_does_not_hurt_the_run(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    start_counter(agent)
    path = Path(agent("inspect", "counter").json[0]["socket"])
    monkeypatch.chdir(path.parent)  # a socket's path has 107 bytes at most
    requests = [
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(64),
        frame(b"not json"),
        frame(b"[]"),
        frame(b"{}"),
        frame(b'{"verb":"kill","signal":"x"}'),
        frame(b'{"verb":"kill","signal":9999}'),
        frame(b'{"verb":"resize"}'),
        frame(b'{"verb":"attach","rows":"many"}'),
        frame(b'{"verb":"exec"}'),
        frame(b'{"verb":"exec","terminal":false,"argv":[],"env":{},"workdir":null,"user":"nobody"}'),
        frame(b'{"verb":"stop","timeout":"soon"}'),
        frame(b'{"verb":"detach"}'),
        bytes([1, 255, 255, 255, 255]),
        frame(b'{"verb":"ping"}')[:7],
    ]
    for request in requests:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(path.name)
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass
    assert_counts_on(agent)


def frame(payload: bytes) -> bytes:
    return bytes([1]) + len(payload).to_bytes(4, "big") + payload


def test_the_terminal_of_the_box_works_as_dev_tty(agent: Agent, screen: Screen) -> None:
    screen.agent_command("run --name sh -e PS1='box: ' -- sh")
    screen.await_text(r"^box:")
    screen.command("exec 5<>/dev/tty; echo to-tty >&5; tty; read -r line </dev/tty")
    screen.await_text(r"^to-tty\n/dev/pts/0")
    screen.command("typed in")
    screen.command('echo "got $line"')
    screen.await_text("got typed in")
    agent("suspend", "sh")
    screen.await_text("sh was suspended")
    screen.agent_command("resume sh")
    # The restore makes it one line smaller for a moment, so that programs draw again.
    screen.command('until [ "$(stty size </dev/tty)" = "30 100" ]; do sleep 0.1; done; echo again >&5')
    screen.await_text(r"^again$")


def test_the_processes_of_a_run_are_in_its_cgroup(agent: Agent) -> None:
    start_counter(agent)
    root = agent.root_pid("counter")
    pids = processes(agent)
    assert root in pids
    for _ in range(2):
        agent("suspend", "counter")
        assert processes(agent) == []
        agent("resume", "-d", "counter")
        assert agent.root_pid("counter") in processes(agent)
        assert len(processes(agent)) == len(pids)


def test_the_supervisor_survives_its_terminal_and_holds_no_directory_busy(agent: Agent, screen: Screen) -> None:
    screen.agent_command("run --name sh -e PS1='box: ' -- sh")
    screen.await_text(r"^box:")
    supervisor = agent("inspect", "sh").json[0]["state"]["supervisor_pid"]
    screen.close()
    client = f"{agent.program[0]}\0-m\0criu_agent\0run\0--name\0sh\0"
    await_true(lambda: client.encode() not in command_lines(), "the command line of the terminal has ended")
    assert agent.state_of("sh") == "running"
    assert Path(f"/proc/{supervisor}/cwd").readlink() == Path("/")
    assert os.getsid(supervisor) == supervisor
    for fd in (0, 1, 2):
        assert Path(f"/proc/{supervisor}/fd/{fd}").readlink() == Path("/dev/null")
    agent("checkpoint", "sh")


def command_lines() -> bytes:
    found = b""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += path.read_bytes() + b"\0"
    return found
