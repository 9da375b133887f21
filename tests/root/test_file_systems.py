"""A host with several file systems, and a run without a layer of its own."""

import os
import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import PYTHON, Agent, await_true

WRITER = """
import os, sys, time
files = [open(path, "a", buffering=1) for path in sys.argv[1:]]
number = 0
while True:
    number += 1
    for file in files:
        file.write(f"{number}\\n")
    time.sleep(0.02)
"""


@pytest.fixture
def host() -> Iterator[Path]:
    """A directory of the host, outside of /tmp (which a box has to itself)."""
    path = Path(f"/var/lib/criu-agent-test-{os.getpid()}")
    path.mkdir()
    yield path
    shutil.rmtree(path)


def start_writer(agent: Agent, *paths: Path, options: tuple[str, ...] = ()) -> None:
    (agent.workdir / "writer.py").write_text(textwrap.dedent(WRITER))
    agent("run", "-d", "--name", "x", *options, "--", PYTHON, "writer.py", *map(str, paths))


def numbers(agent: Agent, paths: tuple[Path, ...]) -> list[list[int]]:
    """What the run sees in the files that it writes."""
    program = "import sys, json; print(json.dumps([[int(line) for line in open(path)] for path in sys.argv[1:]]))"
    return list(agent("exec", "x", "--", PYTHON, "-c", program, *map(str, paths)).json)


def assert_goes_on(agent: Agent, *paths: Path) -> None:
    """Every number once, and more of them, in each file."""
    before = min(map(len, numbers(agent, paths)))
    await_true(lambda: min(map(len, numbers(agent, paths))) > before + 2, "it writes")
    for seen in numbers(agent, paths):
        assert seen == list(range(1, len(seen) + 1))


def test_a_run_on_the_hosts_own_root_writes_everything_through(agent: Agent, host: Path) -> None:
    start_writer(agent, host / "log", options=("--fs", "host"))
    await_true(lambda: (host / "log").exists(), "the host sees it")
    for _ in range(2):
        assert_goes_on(agent, host / "log")
        agent("suspend", "x")
        agent("resume", "-d", "x")
    assert_goes_on(agent, host / "log")
    assert (host / "log").read_text().split()[:3] == ["1", "2", "3"]
    root = next(row for row in agent("plan", "x", "--json").json if row["object"].endswith(" on /"))
    assert (root["action"], root["reason"]) == ("re-plug", "the host's own root: everything is written through")
    assert agent("exec", "x", "--", "ls", str(agent.directory / "state")).out == "", "our own state is hidden"
    for verb in ("diff", "merge"):
        assert "no layer" in agent(verb, "x", check=False).err
    agent("rm", "-f", "x")
    assert len((host / "log").read_text().split()) > 6


@contextmanager
def in_namespace(agent: Agent, setup: str) -> Iterator[None]:
    """Every command line of the agent has mounts of its own meanwhile, made by a shell script."""
    script = f"{setup}; echo ready; exec sleep 1000"
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        program = agent.program
        try:
            assert holder.stdout.readline() == "ready\n"
            agent.program = [*enter(holder.pid), f"--wdns={agent.workdir}", *program]
            yield
            agent.clean_up()
        finally:
            agent.program = program
            holder.kill()


def enter(pid: int) -> list[str]:
    return ["nsenter", "--mount", f"--target={pid}"]


@pytest.fixture
def disks(agent: Agent, host: Path) -> Iterator[Path]:
    """A second file system, a third one mounted in it, and a single file that is mounted over another."""
    script = ""
    for name in ("data", "data/nested"):
        image = agent.directory / name.replace("/", "-")
        subprocess.run(["truncate", "--size=64M", image], check=True)
        subprocess.run(["mkfs.ext4", "-q", "-N", "4096", image], check=True)
        script += f"mkdir {host}/{name}; mount -o loop {image} {host}/{name}; chmod 1770 {host}/{name}; "
    (host / "file").write_text("under\n")
    (host / "over").write_text("over\n")
    script += f" echo theirs >{host}/data/theirs; mount --bind {host}/over {host}/file"
    with in_namespace(agent, script):
        yield host


def listed(agent: Agent, path: Path) -> list[str]:
    """What is in a directory as the host has it."""
    done = subprocess.run([*agent.program[:4], "ls", path], capture_output=True, text=True, check=True)
    return sorted(done.stdout.split())


def test_every_file_system_of_the_host_is_layered_captured_and_restored(agent: Agent, disks: Path) -> None:
    logs = [disks / "log", disks / "data/log", disks / "data/nested/log"]
    start_writer(agent, *logs)
    for _ in range(2):
        assert_goes_on(agent, *logs)
        agent("suspend", "x")
        agent("resume", "-d", "x")
    agent("exec", "x", "--", "sh", "-ec", f"cd {disks}; rm data/theirs; cat file >data/nested/file; echo more >>file")
    seen = agent("exec", "x", "--", "stat", "-c", "%a %F", f"{disks}/data", f"{disks}/data/nested").out
    assert seen == "1770 directory\n" * 2
    agent("suspend", "x")
    changed = {row["path"]: row["change"] for row in agent("diff", "x", "--json").json["changes"]}
    wanted = {**{str(path): "A" for path in logs}, f"{disks}/data/theirs": "D", f"{disks}/data/nested/file": "A"}
    assert {path: kind for path, kind in changed.items() if kind != "C" and str(disks) in path} == wanted
    assert listed(agent, disks / "data") == ["lost+found", "nested", "theirs"], "the host has nothing of it"
    assert (disks / "over").read_text() == "over\nmore\n", "a single file is the host's own"
    agent.forget_everything("x")
    agent("restore", "-d", "x")
    assert_goes_on(agent, *logs)
    agent("suspend", "x")
    agent("merge", "-f", "x", str(disks))
    assert listed(agent, disks / "data") == ["log", "lost+found", "nested"]
    assert agent("merge", "x", str(disks), check=False).code == 10, "there is nothing left"
    agent("resume", "-d", "x")
    assert_goes_on(agent, *logs)


def test_a_program_on_another_file_system_goes_on_when_the_host_has_it_no_more(agent: Agent, disks: Path) -> None:
    program = disks / "data/nested/program"
    subprocess.run([*agent.program[:4], "cp", "/usr/bin/python3", program], check=True)
    (agent.workdir / "writer.py").write_text(textwrap.dedent(WRITER))
    log = disks / "data/log"
    agent("run", "-d", "--name", "x", "--", str(program), "writer.py", str(log))
    await_true(lambda: agent("exec", "x", "test", "-s", str(log), check=False).code == 0, "it writes")
    agent("suspend", "x")
    subprocess.run([*agent.program[:4], "rm", program], check=True)
    agent("resume", "-d", "x")
    assert_goes_on(agent, log)
    assert listed(agent, disks / "data/nested") == ["lost+found"], "the host is as it was"
    agent("suspend", "x")
    agent("resume", "-d", "x")
    assert_goes_on(agent, log)


def test_plan_says_what_is_layered_and_what_is_the_hosts_own(agent: Agent, disks: Path) -> None:
    agent("run", "-d", "--name", "x", "--", "sleep", "1000")
    rows = {row["object"]: row["reason"] for row in agent("plan", "x", "--json").json if row["kind"] == "mount"}
    assert rows[f"overlay on {disks}/data"] == "the run mounts it again"
    assert rows[f"ext4 on {disks}/file"] == "a file system of the host's, written through to it"


@pytest.fixture
def container(agent: Agent) -> Iterator[None]:
    """A host whose root is an overlay."""
    base = agent.directory / "container"
    binds = ("/proc", "/sys", "/dev", "/run", str(agent.directory))
    setup = (
        f"mkdir -p {base}; mount -t tmpfs none {base}; cd {base}; mkdir up work root;"
        " mount -t overlay none root -o lowerdir=/,upperdir=up,workdir=work;"
        + "".join(f" mkdir -p root{path}; mount --rbind {path} root{path};" for path in binds)
        + f" cd root; mkdir -p {str(base)[1:]}/old; pivot_root . {str(base)[1:]}/old; cd /"
    )
    with in_namespace(agent, setup):
        yield


@pytest.mark.usefixtures("container")
def test_a_host_whose_root_is_an_overlay_says_so_and_works_without_a_layer(agent: Agent, host: Path) -> None:
    said = agent("doctor", "--json", check=False).json
    overlay = next(finding for finding in said if finding["requirement"] == "overlay")
    assert (overlay["state"], overlay["fix"]) == ("warn", "run --fs host")
    refused = agent("run", "-d", "--", "sleep", "1000", check=False)
    assert refused.code == 15
    assert "criu-agent run --fs host" in refused.err
    assert agent.runs() == []
    start_writer(agent, host / "log", options=("--fs", "host"))
    for _ in range(2):
        assert_goes_on(agent, host / "log")
        agent("suspend", "x")
        agent("resume", "-d", "x")
    assert_goes_on(agent, host / "log")
    assert listed(agent, host) == ["log"]
    assert not (host / "log").exists(), "the host of the container has nothing of it"


@pytest.fixture
def medium(agent: Agent, host: Path) -> Iterator[Path]:
    """Something read-only that is mounted, with another one in it."""
    script = "".join(
        f"mkdir {host}/{name}; mount -t tmpfs none {host}/{name}; echo read >{host}/{name}/data; "
        for name in ("medium", "medium/nested")
    )
    with in_namespace(agent, f"{script} mount -o remount,ro {host}/medium/nested; mount -o remount,ro {host}/medium"):
        yield host / "medium"


def take_away(agent: Agent, medium: Path) -> None:
    """The host has neither the mounts nor where they were, as any other host."""
    subprocess.run([*agent.program[:4], "umount", "-R", medium], check=True)
    medium.rmdir()


def test_a_read_only_mount_that_a_host_lacks_is_empty_there(agent: Agent, medium: Path) -> None:
    start_writer(agent, agent.workdir / "log")
    assert agent("exec", "x", "cat", f"{medium}/data", f"{medium}/nested/data").out == "read\n" * 2
    agent("suspend", "x")
    take_away(agent, medium)
    said = agent("resume", "-d", "x").err
    for path in (medium, medium / "nested"):
        assert f"{path} of the other host does not exist on this one: it is empty\n" in said
    assert_goes_on(agent, agent.workdir / "log")
    assert agent("exec", "x", "ls", str(medium)).out == "nested\n"
    agent("suspend", "x")
    agent("resume", "-d", "x")
    assert_goes_on(agent, agent.workdir / "log")
    assert not medium.exists(), "nothing of it is made on the host"


def test_a_mount_with_a_file_in_use_must_be_there(agent: Agent, medium: Path) -> None:
    script = f"exec <{medium}/nested/data; echo has it; exec sleep 1000"
    agent("run", "-d", "--name", "x", "--", "sh", "-c", script)
    await_true(lambda: agent("logs", "x").out == "has it\n", "it has the file")
    agent("suspend", "x")
    take_away(agent, medium)
    refused = agent("resume", "-d", "x", check=False)
    assert refused.code == 15
    used = f"{medium} (with {medium}/nested/data, which is in use)"
    assert f"{used}, which the run has from its host, does not exist on this one" in refused.err
    assert agent.state_of("x") == "suspended"


def test_a_link_in_the_place_of_a_lacking_mount_leads_nowhere(agent: Agent, medium: Path, host: Path) -> None:
    """What a run did must not have a restore make directories elsewhere on the host."""
    start_writer(agent, agent.workdir / "log")
    agent("suspend", "x")
    take_away(agent, medium)
    elsewhere = host / "elsewhere"
    elsewhere.mkdir()
    host.joinpath("medium").symlink_to(elsewhere / "missing")
    refused = agent("resume", "-d", "x", check=False)
    host.joinpath("medium").unlink()
    assert (refused.code, list(elsewhere.iterdir())) == (15, [])
    assert agent("resume", "-d", "x").code == 0


@pytest.mark.parametrize(("limit", "said"), [("size=1m", "3.0 MB"), ("nr_inodes=20", "files")])
def test_a_file_system_without_room_for_the_files_is_told_before_anything_is_made(
    agent: Agent, host: Path, limit: str, said: str
) -> None:
    (agent.workdir / "large").write_bytes(os.urandom(3_000_000))
    for number in range(100):
        (agent.workdir / f"{number}").touch()
    with in_namespace(agent, f"mkdir {host}/small; mount -t tmpfs -o {limit} none {host}/small"):
        start_writer(agent, agent.workdir / "log")
        agent("suspend", "x")
        refused = agent("restore", "-d", "--into", f"{host}/small/work", "x", check=False)
        assert refused.code == 15
        assert f"{said} in {host}/small/work, and there is room for " in refused.err
        assert "(the agent: not running)" in refused.err
        assert listed(agent, host / "small") == []
        assert agent.state_of("x") == "suspended"
        agent("resume", "-d", "x")
        assert_goes_on(agent, agent.workdir / "log")
