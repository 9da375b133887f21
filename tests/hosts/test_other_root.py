"""The programs of the main job on a second host that is no twin: another Debian release, another libc and Python.

What a program has mapped or open of the first host's files comes along in its snapshot. The second host has neither
that Python, nor Java, node, vim or tmux.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import packages
from tests.conftest import PYTHON, TOOLS, Agent, Screen, await_true
from tests.hosts.conftest import nothing_is_left
from tests.hosts.host import WORKDIR, Host
from tests.workloads import test_file_objects as file_objects
from tests.workloads import test_files as files
from tests.workloads import test_kernel_objects as kernel_objects
from tests.workloads import test_runtimes as runtimes
from tests.workloads import test_servers as servers
from tests.workloads import test_sleep as sleep
from tests.workloads.terminal import Play
from tests.workloads.test_terminal_programs import WORKLOADS
from tests.workloads.ways import Way, on_another_host

PROGRAMS: list[Callable[[Agent, Way], None]] = [
    files.test_a_sqlite_transaction_keeps_its_lock_and_can_commit,
    files.test_a_git_clone_goes_on_in_the_middle_and_is_whole_at_the_end,
    files.test_deleted_files_keep_their_content_and_offsets,
    kernel_objects.test_threads_timers_descriptors_memory_and_children_are_all_there,
    runtimes.test_asyncio_loses_nothing_of_what_is_in_the_pipes_to_its_two_children,
    runtimes.test_a_java_thread_pool_and_its_scheduler_work_on,
    runtimes.test_a_daemon_that_double_forked_serves_its_socket_on,
    servers.test_a_node_server_keeps_its_clients_its_watches_and_its_child,
    file_objects.test_watches_locks_and_files_without_a_name_are_all_there,
    sleep.test_a_sleep_ends_neither_early_nor_later_than_the_freeze,
]


@contextmanager
def second_host(agent: Agent, tmp_path: Path, base: Path) -> Iterator[Host]:
    """It has the first one's repository, and its key."""
    key = Path(agent("--json", "init").json["key_file"])
    host = Host(tmp_path / "other", "other", "10.66.0.2", agent.directory / "repository", base=base)
    try:
        host.run("mkdir", "-p", "-m", "700", "/var/lib/criu-agent/keys")
        host.write(f"/var/lib/criu-agent/keys/{key.name}", key.read_text())
        yield host
    finally:
        host.switch_off()
        nothing_is_left(tmp_path / "other")


@pytest.fixture
def other(agent: Agent, tmp_path: Path) -> Iterator[Host]:
    (base,) = (tree for name in ("trixie", "bookworm") if (tree := TOOLS / name).is_dir())
    with second_host(agent, tmp_path, base) as host:
        yield host


@pytest.fixture
def twin(agent: Agent, tmp_path: Path) -> Iterator[Host]:
    with second_host(agent, tmp_path, Path("/")) as host:
        yield host


def test_the_second_host_is_another_system(other: Host) -> None:
    """All that follows means little otherwise."""
    for path in ("/etc/os-release", "/usr/lib/x86_64-linux-gnu/libc.so.6"):
        assert other.run("sha256sum", path).split()[0] != hashlib.sha256(Path(path).read_bytes()).hexdigest()
    for program in ("java", "vim", "tmux", PYTHON):
        assert shutil.which(program)
        assert other.run("which", program, check=False) == ""


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda test: test.__name__.removeprefix("test_"))
def test_a_program_goes_on_with_another_system_below_it(
    agent: Agent, other: Host, program: Callable[[Agent, Way], None]
) -> None:
    program(agent, on_another_host(other, WORKDIR))


@pytest.mark.parametrize("name", ["bash", "python", "vim", "tmux"])
def test_a_program_in_a_terminal_goes_on_with_another_system_below_it(
    agent: Agent, other: Host, screen: Screen, name: str
) -> None:
    play = Play(agent, screen, WORKLOADS[name], name)
    play.begin()
    play.suspend()
    play.move_to(other, WORKDIR)
    play.again(1)
    play.finish()


def test_installed_packages_come_along_to_another_host(agent: Agent, twin: Host) -> None:
    prefix = "/var/tmp/tools"
    install = packages.make(agent, prefix)
    agent("run", "-d", "--name", "x", "--", "sh", "-ec", f"{install}; echo both are there; exec sleep 1000")
    await_true(lambda: "both are there" in agent("logs", "x").out, "they are installed")
    agent("suspend", "x")
    twin("restore", "-d", "--into", WORKDIR, "x")
    for command, said in ((packages.DEB, "deb works\n"), (f"{prefix}/bin/{packages.NPM}", "npm works\n")):
        assert twin("exec", "x", command).out == said
        assert twin.run("which", command, check=False) == "", "the host has nothing of it"
    assert twin("exec", "x", "dpkg", "-s", packages.DEB).out.startswith(
        f"Package: {packages.DEB}\nStatus: install ok"
    )
    twin("suspend", "x")
    twin("merge", "x", prefix)
    assert twin.run(f"{prefix}/bin/{packages.NPM}") == "npm works\n"
