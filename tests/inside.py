"""What a supervisor does, done by a test in its own process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from criu_agent import config as configuration
from criu_agent.config import Config
from criu_agent.linux import syscalls
from criu_agent.ops import live
from tests.conftest import Agent, await_true


def config_of(agent: Agent) -> Config:
    """The configuration of the agent's command lines."""
    with pytest.MonkeyPatch.context() as patch:
        for key, value in agent.env.items():
            patch.setenv(key, value)
        return configuration.load()


@contextmanager
def private_mounts() -> Iterator[None]:
    """What is mounted is seen by nobody else, and is gone at the end. The test must have one thread."""
    outside = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    where = os.open(".", os.O_RDONLY)
    live.enter_private_mounts()
    try:
        yield
    finally:
        # A thread that was joined may not have ended yet for the kernel, which then refuses (man 2 setns).
        await_true(lambda: len(os.listdir("/proc/self/task")) == 1, "there is one thread")
        syscalls.setns(outside, syscalls.CLONE_NEWNS)
        os.fchdir(where)
        os.close(outside)
        os.close(where)
