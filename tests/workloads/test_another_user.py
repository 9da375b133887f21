"""The programs of the main job as an ordinary user: where CAP_SYS_RESOURCE is missing, in a user namespace."""

import os
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from criu_agent.linux import proc
from tests.conftest import PYTHON, Agent, workdir_for_everybody
from tests.workloads import test_file_objects as file_objects
from tests.workloads import test_files as files
from tests.workloads import test_kernel_objects as kernel_objects
from tests.workloads import test_runtimes as runtimes
from tests.workloads import test_sleep as sleep
from tests.workloads.ways import NAME, Way, Workload, begin, fill, go_on

USER = 1000
Program = Callable[[Agent, Way], None]
PROGRAMS: list[Program] = [
    files.test_a_sqlite_transaction_keeps_its_lock_and_can_commit,
    file_objects.test_watches_locks_and_files_without_a_name_are_all_there,
    kernel_objects.test_threads_timers_descriptors_memory_and_children_are_all_there,
]
SLOW: list[Program] = [
    files.test_a_git_clone_goes_on_in_the_middle_and_is_whole_at_the_end,
    files.test_deleted_files_keep_their_content_and_offsets,
    runtimes.test_asyncio_loses_nothing_of_what_is_in_the_pipes_to_its_two_children,
    runtimes.test_a_java_thread_pool_and_its_scheduler_work_on,
    runtimes.test_a_daemon_that_double_forked_serves_its_socket_on,
    sleep.test_a_sleep_ends_neither_early_nor_later_than_the_freeze,
]


@pytest.fixture(autouse=True)
def for_everybody(agent: Agent) -> Iterator[None]:
    with workdir_for_everybody(agent):
        yield


def owners(agent: Agent) -> dict[str, int]:
    paths = [agent.workdir, *agent.workdir.rglob("*")]
    return {str(path): path.lstat().st_uid for path in paths}


def give(agent: Agent) -> None:
    for path in [agent.workdir, *agent.workdir.rglob("*")]:
        os.chown(path, USER, USER, follow_symlinks=False)


def as_an_ordinary_user(agent: Agent, workload: Workload) -> None:
    """Suspended and restored twice, the second time from the store alone. What is the user's stays so."""
    own = replace(workload, argv=tuple("/usr/bin/python3" if word == PYTHON else word for word in workload.argv))
    fill(agent, own)
    give(agent)
    run = begin(agent, own, "-u", f"{USER}:{USER}")
    for only_the_store in (False, True):
        assert run.agent("exec", "program", "id", "-u").out == f"{USER}\n"
        run.suspend_and_restore(only_the_store=only_the_store)
        go_on(run, own)
        made = owners(agent)
        assert {uid for path, uid in made.items() if Path(path).name not in ("end", "commit", "fast")} <= {0, USER}
        assert made[str(agent.workdir)] == USER
    own.end(run)


@pytest.mark.parametrize(
    "program",
    [*PROGRAMS, *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW)],
    ids=lambda test: test.__name__.removeprefix("test_"),
)
def test_an_ordinary_users_program_goes_on(agent: Agent, program: Program) -> None:
    program(agent, as_an_ordinary_user)


# Serves whoever comes, and has two connections of its own: to itself, and to the port of the test. Each sends a byte
# and gets it back; what comes to an end is opened again.
TALKER = """
import socket, sys, threading, time

def serve(connection):
    try:
        while data := connection.recv(1):
            connection.sendall(data)
    except ConnectionError:
        pass

def accept(listener):
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=accept, args=(listener,), daemon=True).start()
addresses = [listener.getsockname(), ("127.0.0.1", int(sys.argv[1]))]
ends = dict.fromkeys(addresses, 0)
open_ = {}
n = 0
while True:
    n += 1
    for address in addresses:
        try:
            connection = open_.get(address) or open_.setdefault(address, socket.create_connection(address))
            connection.sendall(b"x")
            if connection.recv(1) != b"x":
                raise ConnectionError
        except ConnectionError:
            ends[address] += 1
            del open_[address]
    print(f"round {n} inside={ends[addresses[0]]} outside={ends[addresses[1]]}", flush=True)
    time.sleep(0.03)
"""


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server on this host that sends back what it gets."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Echo) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        try:
            while data := self.request.recv(1):
                self.request.sendall(data)
        except ConnectionError:
            return


def test_connections_end_where_they_cannot_be_kept_and_plan_says_so(agent: Agent, echo: int) -> None:
    capable = proc.has_sys_resource(os.getpid())  # then there is no user namespace, and all are kept
    talker = Workload(files={"talker.py": TALKER}, argv=("/usr/bin/python3", "talker.py", str(echo)))
    fill(agent, talker)
    give(agent)
    run = begin(agent, talker, "-u", f"{USER}:{USER}")
    rows = [row for row in agent("plan", NAME, "--json").json if "->" in row["object"]]
    assert len(rows) == 3
    assert {row["action"] for row in rows} == {"keep" if capable else "reset"}
    run.checkpoint()
    assert run.await_rounds()[-1].said == {"inside": "0", "outside": "0"}, "a checkpoint harms none"
    for generation in range(1, 3):
        suspended = agent("--json", "suspend", NAME).json_lines[-1]
        assert {one["action"] for one in suspended["connections"] if one["remote"]} == {rows[0]["action"]}
        resumed = agent("restore", "-d", NAME, check=False)
        assert resumed.code == (0 if capable else 3)
        assert resumed.err.count("the run is in a user namespace of its own") == (0 if capable else 3)
        ends = "0" if capable else str(generation)
        assert run.await_rounds()[-1].said == {"inside": ends, "outside": ends}
