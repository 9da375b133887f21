"""Secrets in a process stay in it: no byte of them in the store, in our files, or in what other processes show.

Where they may be on this host, and nowhere else: `run.json` has the environment that the command was started with,
and `box/upper` the files that the run wrote itself. Both are in a directory that root alone enters, and neither
leaves the host but encrypted. What the run prints is in its `output.log` in the same way; this one prints no secret.
"""

import base64
import hashlib
import os
import pty
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from criu_agent.ops import vault
from tests.conftest import Agent, await_true
from tests.inside import config_of

# Keeps secrets in every place where a process can have some, and says only the hash of all that it finds there again.
KEEPER = r"""
import ctypes, fcntl, hashlib, mmap, os, socket, sys, termios, threading, time
with open("secrets") as fifo:
    secrets = [line.strip().encode() for line in fifo]
places = {kind: [one for one in secrets if b"." + kind.encode() + b"." in one] for kind in sys.argv[1:]}
heap = [bytearray(one) for one in places["heap"]]
records = [b"\x17\x03\x03" + len(one).to_bytes(2, "big") + one for one in places["tls"]]
stack = [ctypes.create_string_buffer(one, 4096) for one in places["stack"]]
mapped = mmap.mmap(-1, 1 << 16)
mapped.write(b"".join(places["mapped"]))
memory = os.memfd_create("secrets")
os.write(memory, b"".join(places["memfd"]))
deleted = open("/tmp/deleted", "w+b", buffering=0)
deleted.write(b"".join(places["deleted"]))
os.unlink("/tmp/deleted")
with open("/root/kept", "wb") as file:
    file.write(b"".join(places["file"]))
with open("/dev/shm/kept", "wb") as file:
    file.write(b"".join(places["shm"]))
reader, writer = os.pipe()
os.write(writer, b"".join(places["pipe"]))
ours, theirs = socket.socketpair()
ours.send(b"".join(places["socket"]))
for one in places["putenv"]:
    os.environ["LATER"] = one.decode()
local = threading.local()
local.secrets = list(places["thread"])
flags = termios.tcgetattr(0)
flags[3] &= ~termios.ECHO
termios.tcsetattr(0, termios.TCSANOW, flags)
del secrets
print("ready", flush=True)
typed = sys.stdin.readline().strip().encode()
print("typed", flush=True)
def found():
    yield from heap
    yield from (one[5:] for one in records)
    yield from (one.value for one in stack)
    yield mapped[:].rstrip(b"\0")
    yield os.pread(memory, 1 << 16, 0)
    deleted.seek(0)
    yield deleted.read()
    yield open("/root/kept", "rb").read()
    yield open("/dev/shm/kept", "rb").read()
    yield os.read(reader, 1 << 16)
    yield theirs.recv(1 << 16)
    yield os.environ["LATER"].encode()
    yield from local.secrets
    yield typed
    yield sys.stdin.readline().strip().encode()
    yield from (os.environ[f"SECRET_{number}"].encode() for number in range(5))
while not os.path.exists("say"):
    time.sleep(0.02)
print("found", hashlib.sha256(b"".join(found())).hexdigest(), flush=True)
while True:
    time.sleep(1)
"""
KINDS = {
    "heap": 10,
    "tls": 5,
    "stack": 5,
    "mapped": 3,
    "memfd": 3,
    "deleted": 3,
    "file": 5,
    "shm": 3,
    "pipe": 3,
    "socket": 1,
    "putenv": 1,
    "thread": 1,
    "typed": 1,
    "unread": 1,
    "env": 5,
}
MARK = secrets.token_hex(12).encode()  # what all of them begin with
SECRETS = {kind: [MARK + f".{kind}.{secrets.token_hex(8)}".encode() for _ in range(n)] for kind, n in KINDS.items()}


def forms(text: bytes) -> list[bytes]:
    """How it could be written: as it is, in hex, in UTF-16, and in base64 wherever it begins."""
    in_base64 = [base64.b64encode(bytes(skipped) + text)[4:-4] for skipped in range(3)]
    return [text, text.hex().encode(), text.hex().upper().encode(), text.decode().encode("utf-16-le"), *in_base64]


PATTERNS = forms(MARK)


def test_the_patterns_find_a_secret_in_whatever_form() -> None:
    for at in range(3):
        text = bytes(at) + SECRETS["heap"][0]
        for written in (text, base64.b64encode(text), text.hex().encode(), text.decode().encode("utf-16-le")):
            assert hits(written), written
    assert not hits(base64.b64encode(os.urandom(1000)))
    assert sum(KINDS.values()) == 50


def hits(data: bytes, patterns: list[bytes] = PATTERNS) -> list[bytes]:
    """What of it is there, with what is behind."""
    return [data[at : at + 40] for at in (data.find(pattern) for pattern in patterns) if at >= 0]


def found_in(root: Path, patterns: list[bytes] = PATTERNS) -> dict[str, list[bytes]]:
    """The regular files below a directory that have some, by their paths there."""
    found: dict[str, list[bytes]] = {}
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory, name)
            try:
                if path.is_symlink() or not path.is_file():
                    continue
                there = hits(path.read_bytes(), patterns)
            except OSError:
                continue  # removed meanwhile
            if there:
                found[str(path.relative_to(root))] = there
    return found


class Watch(threading.Thread):
    """Looks at the command line and the environment of every process, and at new files of ours, again and again."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.looked = 0
        self.ours: set[int] = {os.getpid()}  # whose environment may have them: the test's own, and a supervisor
        self._agent = agent
        self._namespace = os.readlink("/proc/self/ns/pid")
        self._known: set[tuple[int, int]] = set()
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.is_set():
            self._processes()
            self._files()
            self.looked += 1
            time.sleep(0.005)

    def stop(self) -> None:
        self._over.set()
        self.join()

    def _processes(self) -> None:
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) in self.ours:
                continue
            try:
                if os.readlink(f"/proc/{name}/ns/pid") != self._namespace:
                    continue  # the run's own
                command = Path(f"/proc/{name}/cmdline").read_bytes()
                if hits(command):
                    self.seen.add(f"command line {command!r}")
                # a child of the supervisor has its command line, and its environment, until it executes a program
                if b"criu_agent.supervisor" not in command and hits(Path(f"/proc/{name}/environ").read_bytes()):
                    self.seen.add(f"environment of {command!r}")
            except OSError:
                continue

    def _files(self) -> None:
        for root in ("repository", "run"):
            for directory, _, names in os.walk(self._agent.directory / root):
                for name in names:
                    path = Path(directory, name)
                    try:
                        facts = path.lstat()
                        if (facts.st_ino, facts.st_mtime_ns) in self._known or not path.is_file():
                            continue
                        self._known.add((facts.st_ino, facts.st_mtime_ns))
                        if hits(path.read_bytes()):
                            self.seen.add(f"file {path}")
                    except OSError:
                        continue


@contextmanager
def watched(agent: Agent, supervisor: int) -> Iterator[None]:
    """Nothing is to be seen meanwhile."""
    watch = Watch(agent)
    watch.ours.add(supervisor)
    watch.start()
    try:
        yield
    finally:
        watch.stop()
    assert watch.looked > 3
    assert watch.seen == set()


@pytest.fixture
def keeper(agent: Agent) -> Agent:
    """A run with 50 secrets, one of them typed into its terminal and read, one typed and not read yet."""
    (agent.workdir / "keeper.py").write_text(KEEPER)
    fifo = agent.workdir / "secrets"
    os.mkfifo(fifo)
    told = [one for kind, found in SECRETS.items() if kind not in ("env", "typed", "unread") for one in found]
    writer = threading.Thread(target=lambda: fifo.write_bytes(b"\n".join(told) + b"\n"))
    writer.start()
    environment = {f"SECRET_{number}": one.decode() for number, one in enumerate(SECRETS["env"])}
    agent("run", "-d", "-t", "--name", "keeper", "--", "python3", "keeper.py", *KINDS, env=environment)
    writer.join()
    fifo.unlink()
    await_true(lambda: "ready" in agent("logs", "keeper").out, "it has them all")
    typed(agent, SECRETS["typed"][0], until=lambda: "typed" in agent("logs", "keeper").out)
    typed(agent, SECRETS["unread"][0], until=lambda: True)
    return agent


def typed(agent: Agent, text: bytes, *, until: Callable[[], bool]) -> None:
    """Type a line into the run's terminal, as a person who is attached to it."""
    master, slave = pty.openpty()
    client = subprocess.Popen(
        [*agent.program, "attach", "keeper"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=agent.env,
        cwd=agent.workdir,
    )
    os.close(slave)
    try:
        shown = b""
        while b"ready" not in shown:
            shown += os.read(master, 4096)
        os.write(master, text + b"\n")
        await_true(until, "it was read")
        time.sleep(0.3)  # until the supervisor has passed on what nobody reads
        os.write(master, b"\x1c")  # the key that detaches
        os.set_blocking(master, False)
        while client.poll() is None:
            try:
                os.read(master, 4096)
            except BlockingIOError:
                time.sleep(0.02)
            except OSError:
                break
        assert client.wait(10) == 0
    finally:
        client.kill()
        client.wait()
        os.close(master)


def supervisor_of(agent: Agent, name: str = "keeper") -> int:
    return int(agent("inspect", name).json[0]["state"]["supervisor_pid"])


def assert_nowhere(agent: Agent, started: float) -> None:
    """In no file of ours, but where the run's own environment and files are; and in no other file that is new."""
    run = agent.run_of("keeper")["run"]
    allowed = {f"runs/{run}/run.json": b"env", f"runs/{run}/box/upper/root/kept": b"file"}
    state = found_in(agent.directory / "state")
    assert {path: found for path, found in state.items() if path not in allowed} == {}
    for path, found in state.items():
        assert all(one.startswith(MARK + b"." + allowed[path]) for one in found)
    assert found_in(agent.directory / "repository") == {}
    assert found_in(agent.directory / "run") == {}
    for root in ("/tmp", "/var/tmp", "/dev/shm", "/run"):
        assert newer_with_secrets(Path(root), started, agent.directory) == []


def newer_with_secrets(root: Path, started: float, without: Path) -> list[str]:
    found: list[str] = []
    for directory, directories, names in os.walk(root):
        directories[:] = [one for one in directories if Path(directory, one) != without]
        for name in names:
            path = Path(directory, name)
            try:
                facts = path.lstat()
                if (
                    facts.st_mtime >= started
                    and path.is_file()
                    and facts.st_size < 256 << 20
                    and hits(path.read_bytes())
                ):
                    found.append(str(path))
            except OSError:
                continue
    return found


def assert_nothing_kept_open(pid: int) -> None:
    """No spool, no image, no deleted file that could still be read."""
    open_files = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]
    assert [path for path in open_files if "(deleted)" in path and "/memfd:" not in path] == []
    assert "criu-images" not in Path(f"/proc/{pid}/mounts").read_text()


def test_50_secrets_of_a_run_are_seen_nowhere(keeper: Agent) -> None:
    """It is checkpointed, checkpointed again, suspended, and resumed; it has all of them in the end."""
    started = time.time() - 60
    first = supervisor_of(keeper)
    with watched(keeper, first):
        keeper("checkpoint", "keeper")
    assert_nothing_kept_open(first)
    assert_nowhere(keeper, started)
    with watched(keeper, first):
        keeper("checkpoint", "keeper", "--full")
        keeper("diff", "keeper~1", "keeper")
        keeper("suspend", "keeper")
    assert_nowhere(keeper, started)
    with watched(keeper, 0):
        keeper("resume", "-d", "keeper")
        keeper("check", "--read-data")
    second = supervisor_of(keeper)
    assert not hits(Path(f"/proc/{second}/environ").read_bytes()), "it has no need of the run's environment"
    assert_nothing_kept_open(second)
    assert_nowhere(keeper, started)
    (keeper.workdir / "say").touch()
    await_true(lambda: "found" in keeper("logs", "keeper").out, "it has looked")
    assert keeper("logs", "keeper").out.split("found ")[1].split()[0] == expected()


def expected() -> str:
    order = ("heap", "tls", "stack", "mapped", "memfd", "deleted", "file", "shm", "pipe", "socket")
    order += ("putenv", "thread", "typed", "unread", "env")
    return hashlib.sha256(b"".join(one for kind in order for one in SECRETS[kind])).hexdigest()


def test_the_secret_of_the_repository_is_in_no_file(keeper: Agent) -> None:
    """It is wrapped in the store, and only the identity that unwraps it is in the key file."""
    keeper("checkpoint", "keeper")
    config = config_of(keeper)
    repository = vault.open_repository(config)
    keys = repository.secret.keys(keeper.run_of("keeper")["run"])
    assert keys is not None
    identity = config.key_of(repository.id).read_text().splitlines()[-1]
    for secret in (repository.secret.seed, repository.secret.current.master, keys.name, keys.pack, keys.manifest):
        patterns = [secret, secret.hex().encode(), base64.b64encode(secret)[:40]]
        assert found_in(keeper.directory, patterns) == {}
    known = found_in(keeper.directory, [identity.encode()])
    assert list(known) == [str(config.key_of(repository.id).relative_to(keeper.directory))]


# --- other users


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """One that every user can enter, so that the modes of what is in it count."""
    made = Path(tempfile.mkdtemp(prefix="criu-agent-canaries-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def as_nobody(*command: str) -> str:
    argv = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *command]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def test_no_file_of_ours_can_be_read_by_another_user(open_directory: Path) -> None:
    """Whatever the caller's umask is: state, runtime, repository, key files, logs, sockets, an exported file."""
    agent = Agent(open_directory)
    umask = os.umask(0)
    try:
        agent("run", "-d", "--name", "keeper", "--", "sh", "-c", "echo secret >/root/kept; while :; do sleep 1; done")
        agent("checkpoint", "keeper")
        agent("checkpoint", "keeper")
        agent("export", "keeper", "-e", str(open_directory / "exported"))
        agent("key", "rotate")
        agent("checkpoint", "keeper")
        assert readable(open_directory) == []
        agent("suspend", "keeper")
        agent("resume", "-d", "keeper")
        assert readable(open_directory) == []
        assert (open_directory / "exported").stat().st_mode & 0o777 == 0o600
        sockets = list(open_directory.rglob("*.sock"))
        assert sockets
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in sockets)
    finally:
        os.umask(umask)
        agent.clean_up()


def readable(directory: Path) -> list[str]:
    """What somebody else can read, write or list below a directory that he can enter, but the work directory."""
    command = ["find", str(directory), "-path", f"{directory}/work", "-prune", "-o", "-not", "-type", "l"]
    found = as_nobody(*command, "(", "-readable", "-o", "-writable", ")", "-print").splitlines()
    assert found.pop(0) == str(directory), "it can be entered at all"
    return found
