"""What a supervisor does, done by a test in its own process."""

import multiprocessing
from collections.abc import Callable

import pytest

from criu_agent import config as configuration
from criu_agent.config import Config
from criu_agent.ops import live
from tests.conftest import Agent


def config_of(agent: Agent) -> Config:
    """The configuration of the agent's command lines."""
    with pytest.MonkeyPatch.context() as patch:
        for key, value in agent.env.items():
            patch.setenv(key, value)
        return configuration.load()


def in_private_mounts(body: Callable[[], None]) -> None:
    """Run body in a child of this process: what it mounts is seen by nobody else, and goes with it.

    A child, because a process with more than one thread cannot go back to its mounts (man 2 setns), and the
    threads of obstore, which another test may have started in this one, never end.
    """

    def alone() -> None:
        live.enter_private_mounts()
        body()

    child = multiprocessing.get_context("fork").Process(target=alone)
    child.start()
    child.join()
    assert child.exitcode == 0, "its traceback is in what was captured of stderr"
