"""Ctrl-C while a supervisor is started: it is told, whenever it comes."""

import os
import signal
from collections.abc import Iterator

import pytest

from criu_agent.linux import process
from criu_agent.supervisor.spawn import _Interrupts


@pytest.fixture
def supervisor() -> Iterator["process.Process[bytes]"]:
    child = process.spawn(["sleep", "1000"])
    yield child
    child.kill()
    child.wait()


def test_one_that_comes_before_there_is_a_supervisor_reaches_it_too(supervisor: "process.Process[bytes]") -> None:
    with _Interrupts.passed_on() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert supervisor.poll() is None
        interrupts.go_to(supervisor)
        assert supervisor.wait() == -signal.SIGTERM
    assert interrupts.came


def test_the_supervisor_is_told_once_and_a_second_one_ends_the_waiting(supervisor: "process.Process[bytes]") -> None:
    before = signal.getsignal(signal.SIGINT)
    with _Interrupts.passed_on() as interrupts:
        interrupts.go_to(supervisor)
        os.kill(os.getpid(), signal.SIGINT)
        assert supervisor.wait() == -signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_where_it_is_ignored_it_stays_so(supervisor: "process.Process[bytes]") -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with _Interrupts.passed_on() as interrupts:
            interrupts.go_to(supervisor)
            os.kill(os.getpid(), signal.SIGINT)
        assert not interrupts.came
        assert supervisor.poll() is None
    finally:
        signal.signal(signal.SIGINT, before)
