"""What a run writes through to the host is in its snapshots, as it was at the freeze."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from criu_agent import runs
from criu_agent.fs.rebuild import entries, rebuild
from criu_agent.model import Contents, Snapshot
from criu_agent.ops import saved, vault
from criu_agent.repo.reading import Reader
from tests.conftest import PYTHON, Agent, await_true
from tests.inside import config_of

# Writes a number to `now`, to a log and to its memory, as quickly as it can.
WRITER = """
import os, sys
log = open("log", "a", buffering=1)
number = 0
while True:
    number += 1
    with open("new", "w") as file:
        file.write(str(number))
    os.rename("new", "now")
    log.write(f"{number}\\n")
"""
SETTLED = 2.2  # seconds after which a file that did not change is not read again


def start(agent: Agent, *options: str, program: str = "import time\nwhile True: time.sleep(1)") -> None:
    (agent.workdir / "program.py").write_text(program)
    agent("run", "-d", "--name", "one", *options, "--", PYTHON, "program.py")


def checkpoint(agent: Agent, verb: str = "checkpoint") -> dict[str, object]:
    return dict(agent("--json", verb, "one").json_lines[-1])


def opened(agent: Agent, snapshot_id: str) -> tuple[Snapshot, Contents, Reader]:
    repository = vault.open_repository(config_of(agent), make=False)
    snapshot = repository.read(snapshot_id)
    contents = repository.contents(snapshot)
    return snapshot, contents, repository.reader(snapshot, contents)


def rebuilt(agent: Agent, snapshot_id: str, name: str, into: Path) -> Path:
    _, contents, reader = opened(agent, snapshot_id)
    rebuild(contents.trees[name], reader.stream, into)
    return into


def paths(agent: Agent, snapshot_id: str, name: str = "through-0") -> set[str]:
    _, contents, reader = opened(agent, snapshot_id)
    return {entry.path for entry in entries(reader.stream(contents.trees[name].index))}


def everything(root: Path) -> dict[str, object]:
    found = sorted(root.rglob("*"))
    return {
        str(path.relative_to(root)): (path.lstat().st_mode, path.lstat().st_mtime_ns, path.read_bytes())
        for path in found
        if path.is_file()
    }


def test_a_second_snapshot_reads_and_stores_only_what_changed(agent: Agent, into: Path) -> None:
    for number in range(200):
        (agent.workdir / f"file{number}").write_bytes(os.urandom(20_000))
    start(agent)
    time.sleep(SETTLED)
    first, second = checkpoint(agent), checkpoint(agent)
    assert int(str(first["bytes_stored"])) > 4_000_000
    idle = int(str(second["bytes_stored"]))
    assert idle < 400_000
    (agent.workdir / "file7").write_bytes(os.urandom(100_000))
    third = checkpoint(agent)
    assert 100_000 < int(str(third["bytes_stored"])) < idle + 300_000
    assert everything(rebuilt(agent, str(third["snapshot"]), "through-0", into)) == everything(agent.workdir)
    snapshot, _, _ = opened(agent, str(third["snapshot"]))
    known = saved.read(config_of(agent), snapshot.manifest).captured
    assert known["through-0"].path == str(agent.workdir)
    assert "__pycache__" in known["through-0"].excluded


@pytest.mark.parametrize("verb", ["checkpoint", "suspend"])
def test_files_and_memory_are_of_one_instant(agent: Agent, into: Path, verb: str) -> None:
    start(agent, program=WRITER)
    await_true(lambda: (agent.workdir / "now").exists(), "it writes")
    first = checkpoint(agent)
    written = (agent.workdir / "log").stat().st_size
    if verb == "checkpoint":  # what it wrote since is not in it
        await_true(lambda: (agent.workdir / "log").stat().st_size > written + 5000, "it went on")
    files = rebuilt(agent, str(first["snapshot"]), "through-0", into)
    lines = (files / "log").read_text().splitlines()
    numbers = [int(line) for line in lines]
    assert numbers == list(range(1, len(numbers) + 1))
    assert int((files / "now").read_text()) - numbers[-1] in (0, 1)
    second = checkpoint(agent, verb)
    again = into.with_name("again")
    again.mkdir()
    now = rebuilt(agent, str(second["snapshot"]), "through-0", again)
    assert (now / "log").read_text().startswith((files / "log").read_text())
    if verb == "suspend":
        assert everything(now) == everything(agent.workdir)


def test_a_file_that_is_mapped_is_of_the_instant_though_its_times_are_not(agent: Agent, into: Path) -> None:
    program = """
import mmap, os, time
with open("mapped", "wb") as file:
    file.write(bytes(8192))
file = open("mapped", "r+b")
memory = mmap.mmap(file.fileno(), 8192)
memory[0:5] = b"00000"
os.fsync(file.fileno())
open("ready", "w").close()
while not os.path.exists("go"):
    time.sleep(0.01)
number = 1
while True:
    memory[0:5] = b"%05d" % (number % 100000)
    number += 1
"""
    start(agent, program=program)
    await_true(lambda: (agent.workdir / "ready").exists(), "it has mapped the file")
    time.sleep(SETTLED)
    checkpoint(agent)
    (agent.workdir / "go").touch()
    time.sleep(SETTLED)
    checkpoint(agent)
    before = (agent.workdir / "mapped").read_bytes()
    await_true(lambda: (agent.workdir / "mapped").read_bytes() != before, "it writes")
    taken = checkpoint(agent, "suspend")
    files = rebuilt(agent, str(taken["snapshot"]), "through-0", into)
    assert (files / "mapped").read_bytes() == (agent.workdir / "mapped").read_bytes()


def test_a_single_file_that_is_written_through_is_a_tree(agent: Agent, tmp_path: Path, into: Path) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text("{}")
    start(agent, "--through", str(settings))
    taken = checkpoint(agent)
    snapshot, contents, _ = opened(agent, str(taken["snapshot"]))
    known = snapshot.manifest.resources["captured"]
    name = next(key for key, value in known.items() if value["path"] == str(settings))
    assert set(contents.trees) == {"upper", "closure", "through-0", "through-1"}
    assert rebuilt(agent, str(taken["snapshot"]), name, into / "file").read_text() == "{}"
    agent("suspend", "one")
    agent("resume", "-d", "one")
    assert agent.state_of("one") == "running"


def test_a_socket_that_is_written_through_is_no_tree(agent: Agent, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "daemon.sock"))
        start(agent, "--through", str(tmp_path / "daemon.sock"))
        assert "neither a directory nor a file: not captured" in agent("plan", "--all", "one").out
        snapshot, contents, _ = opened(agent, str(checkpoint(agent)["snapshot"]))
    captured = snapshot.manifest.resources["captured"]
    assert set(contents.trees) == {"upper", "closure", *captured}
    assert [one["path"] for one in captured.values()] == [str(agent.workdir)]


def test_what_is_excluded_is_in_no_snapshot_but_what_is_open_is(agent: Agent) -> None:
    for name in ("__pycache__", "build", "src"):
        (agent.workdir / name).mkdir()
        (agent.workdir / name / "thing.o").write_text(name)
        (agent.workdir / name / "open.o").write_text(name)
    start(
        agent,
        *("--exclude", "build", "--exclude", "src/*.o"),
        program="import time\nfile = open('build/open.o')\nopen('ready', 'w')\nwhile True: time.sleep(1)",
    )
    await_true(lambda: (agent.workdir / "ready").exists(), "it has opened the file")
    taken = checkpoint(agent)
    assert paths(agent, str(taken["snapshot"])) == {"", "program.py", "ready", "build", "build/open.o", "src"}
    assert agent("inspect", "one").json[0]["spec"]["exclude"] == ["build", "src/*.o"]
    plan = agent("plan", "--all", "one").out
    assert "captured, without __pycache__" in plan
    agent("suspend", "one")
    agent.forget_everything("one")
    agent("restore", "-d", "one")
    assert agent("inspect", "one").json[0]["spec"]["exclude"] == ["build", "src/*.o"]


def test_a_hostile_workspace_is_captured_and_holds_nobody(agent: Agent, tmp_path: Path, into: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("s")
    root = agent.workdir
    (root / "out").symlink_to(outside)
    (root / "up").symlink_to("../../../../etc/shadow")
    (root / os.fsdecode(b"\xff\xfe bad\n\x1b[2J")).write_bytes(b"b")
    (root / "setuid").write_bytes(b"x")
    (root / "setuid").chmod(0o6755)
    os.mkfifo(root / "fifo")
    os.mknod(root / "zero", 0o20666, os.makedev(1, 5))
    (root / "hole").touch()
    os.truncate(root / "hole", 1 << 40)
    (root / "one").write_bytes(os.urandom(1_500_000))
    for number in range(300):
        os.link(root / "one", root / f"name{number}")
    deep = root
    for _ in range(60):
        deep = deep / ("d" * 60)
        deep.mkdir()
    start(agent)
    began = time.monotonic()
    taken = checkpoint(agent)
    assert time.monotonic() - began < 30
    assert (
        int(str(taken["bytes_stored"])) < 30_000_000
    )  # with the program itself; 300 names of one file would be 450 MB
    files = rebuilt(agent, str(taken["snapshot"]), "through-0", into)
    assert (files / "out").readlink() == outside
    assert not (files / "out").is_dir() or sorted(outside.iterdir()) == [outside / "secret"]
    assert (files / "hole").stat().st_blocks == 0
    assert (files / "one").stat().st_nlink == 301
    assert (files / "zero").is_char_device()


def test_a_supervisor_that_is_killed_in_mid_capture_leaves_the_agent_running(agent: Agent) -> None:
    for number in range(60):
        (agent.workdir / f"file{number}").write_bytes(os.urandom(4_000_000))
    start(agent, program="import time\nwhile True: open('tick', 'w').write(str(time.time())); time.sleep(0.02)")
    await_true(lambda: (agent.workdir / "tick").exists(), "it ticks")
    supervisor = runs.find(config_of(agent), "one").state.supervisor_pid
    asking = subprocess.Popen([*agent.program, "checkpoint", "one"], env=agent.env, stderr=subprocess.DEVNULL)
    await_true(lambda: _has_spool(supervisor, agent), "it copies files")
    os.kill(supervisor, signal.SIGKILL)
    assert asking.wait(60) != 0
    before = (agent.workdir / "tick").read_text()
    await_true(lambda: (agent.workdir / "tick").read_text() not in ("", before), "it goes on")
    assert agent.state_of("one") == "degraded"


def _has_spool(pid: int, agent: Agent) -> bool:
    """Whether the supervisor has a file without a name in the run's directory."""
    found = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]
    return any(path.startswith(f"{agent.directory}/state/runs/") and path.endswith("(deleted)") for path in found)
