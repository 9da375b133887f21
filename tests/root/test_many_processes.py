"""A tree has more images than a process may have open files where nobody has said otherwise."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

from tests.conftest import Agent, await_true

PROCESSES = 200  # CRIU makes about ten images of each
OPEN_FILES = 1024  # the soft limit of most systems


@contextmanager
def few_open_files() -> Iterator[None]:
    """What is started meanwhile may not open more than most systems let it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def sleepers(agent: Agent) -> int:
    return agent("exec", "many", "sh", "-c", "cat /proc/[0-9]*/comm").out.splitlines().count("sleep")


def test_a_tree_of_many_processes_is_suspended_and_resumed_with_few_open_files(agent: Agent) -> None:
    script = f"for i in $(seq {PROCESSES}); do sleep 1000 & done; wait"
    with few_open_files():
        agent("run", "-d", "--name", "many", "--", "sh", "-c", script)
        await_true(lambda: sleepers(agent) == PROCESSES, "all are there")
        agent("suspend", "many")
        agent("resume", "-d", "many")
    assert sleepers(agent) == PROCESSES
