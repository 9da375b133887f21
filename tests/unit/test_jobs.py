"""One job beside the loop: its result and every kind of error arrive in the loop, and it can ask the loop."""

import os
import select
import threading
from collections.abc import Callable

import pytest

from criu_agent.errors import Failure, Refused
from criu_agent.supervisor.jobs import Jobs


class Outcome:
    def __init__(self) -> None:
        self.result: object = None
        self.error: Failure | None = None
        self.thread: threading.Thread | None = None

    def done(self, result: object, error: Failure | None) -> None:
        self.result, self.error, self.thread = result, error, threading.current_thread()


def run(work: Callable[[Jobs], object]) -> Outcome:
    """Run a job to its end, with the loop that a supervisor has."""
    jobs, outcome = Jobs(), Outcome()
    jobs.start(lambda: work(jobs), outcome.done)
    assert jobs.busy
    while outcome.thread is None:
        assert select.select([jobs.wake], [], [], 10)[0], "the job says nothing"
        jobs.run_calls()
    assert not jobs.busy
    os.close(jobs.wake)
    return outcome


def test_the_result_arrives_in_the_loop() -> None:
    outcome = run(lambda _: threading.current_thread())
    assert outcome.thread is threading.current_thread()
    assert outcome.result is not threading.current_thread()
    assert outcome.error is None


def test_a_failure_arrives_as_it_is() -> None:
    refused = Refused("not now", agent_state="running, unharmed")

    def work(_: Jobs) -> None:
        raise refused

    assert run(work).error is refused


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(2, "No such file or directory", "/x"), "/x"),
        (TimeoutError("nft took longer than 3 s"), "nft took longer than 3 s"),
        (ValueError("a bug"), "a bug"),
        (RecursionError("deep"), "deep"),
    ],
)
def test_any_other_error_becomes_a_failure_that_says_it(error: Exception, said: str) -> None:
    def work(_: Jobs) -> None:
        raise error

    outcome = run(work)
    assert outcome.error is not None
    assert said in outcome.error.message
    assert outcome.result is None


def test_a_job_can_have_something_done_in_the_loop_and_gets_the_result() -> None:
    outcome = run(lambda jobs: jobs.in_loop(threading.current_thread))
    assert outcome.result is threading.current_thread()


def test_an_error_in_the_loop_is_raised_in_the_job() -> None:
    def refuse() -> None:
        raise Refused("the loop says no")

    def work(jobs: Jobs) -> str:
        with pytest.raises(Refused):
            jobs.in_loop(refuse)
        return "went on"

    assert run(work).result == "went on"


def test_what_is_posted_is_done_in_its_order_and_before_the_end() -> None:
    seen: list[int] = []

    def work(jobs: Jobs) -> list[int]:
        for number in range(50):
            jobs.post(lambda number=number: seen.append(number))  # type: ignore[misc]
        return seen

    assert run(work).result == list(range(50))


def test_the_next_job_may_be_started_when_one_is_done() -> None:
    jobs, seen = Jobs(), []

    def again(result: object, _: Failure | None) -> None:
        seen.append(result)
        if len(seen) < 3:
            jobs.start(lambda: len(seen), again)

    jobs.start(lambda: 0, again)
    while jobs.busy:
        assert select.select([jobs.wake], [], [], 10)[0]
        jobs.run_calls()
    assert seen == [0, 1, 2]
    os.close(jobs.wake)
