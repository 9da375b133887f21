"""Who gets a checkpoint when several want one: a person first, one at a time, and nobody is forgotten."""

import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from criu_agent.criu.dump import Cancel
from criu_agent.errors import Failure, Interrupted, Refused
from criu_agent.model import RunState
from criu_agent.ops.checkpoint import Summary
from criu_agent.ops.save import Request
from criu_agent.supervisor.automatic import Automatic
from criu_agent.supervisor.checkpoints import Checkpoints
from criu_agent.supervisor.clients import Client
from criu_agent.supervisor.jobs import Jobs
from criu_agent.supervisor.schedule import Schedule


class Run:
    """What a checkpoint needs to know of a run; its processes are the test's own."""

    def __init__(self, keep_last: int | None) -> None:
        self.state = RunState(state="running")
        self.live = SimpleNamespace(root_pid=os.getpid(), spec=SimpleNamespace(keep_last=keep_last))
        self.status: int | None = None
        self.kill_at: float | None = None
        self.suspended = False
        self.is_written = True

    def set(self, **changes: Any) -> None:
        self.state = replace(self.state, **changes)

    def reap(self) -> None:
        pass

    def done(self, client: Any, **fields: object) -> None:
        client.told.append(("done", fields["snapshot"]))


class Person:
    """A client that has asked for something, and what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []

    def tell(self, _message_type: str, *, phase: str, **_: object) -> None:
        self.told.append(("status", phase))

    def fail(self, failure: Failure) -> None:
        self.told.append(("failed", failure))

    @property
    def failure(self) -> Failure:
        [failure] = [found for kind, found in self.told if kind == "failed"]
        assert isinstance(failure, Failure)
        return failure


class Stage:
    """A run with its checkpoints, each of which takes until the test lets it end."""

    def __init__(self, *, every: float | None = 60.0, keep_last: int | None = None) -> None:
        self.now = 0.0
        self.run = Run(keep_last)
        self.jobs = Jobs()
        self.schedule = Schedule(
            every=every,
            on_idle=None,
            saved=False,
            clock=lambda: self.now,
            cpu=lambda: 0.0,
            jitter=lambda _, high: high,
        )
        run = cast(Any, self.run)
        self.checkpoints = Checkpoints(run, self.jobs, self.schedule, take=self._take, thin_out=self._thin_out)
        self.automatic = Automatic(run, self.jobs, self.checkpoints, self.schedule)
        self.requests: list[Request] = []
        self.taken = 0
        self.thinned: list[str] = []
        self.error: Exception | None = None  # of the next job
        self._go = threading.Semaphore(0)

    def _job(self, cancel: Cancel) -> None:
        self._go.acquire(timeout=10)
        cancel.check()
        if self.error is not None:
            raise self.error

    def _take(self, _live: object, request: Request, *, cancel: Cancel, **_: object) -> Summary:
        self.requests.append(request)
        self._job(cancel)
        self.taken += 1
        return Summary(
            snapshot=f"snapshot {self.taken}",
            sequence=self.taken,
            created="2026-11-21T03:14:15Z",
            stopped=request.stop,
            frozen_ms=1,
            phases={},
            bytes_raw=1,
            bytes_stored=1,
            connections=[],
            warnings=[],
            network_lock="",
        )

    def _thin_out(self, _live: object, *, newest: str, cancel: Cancel) -> int:
        self.thinned.append(newest)
        self._job(cancel)
        return 1

    def begin_automatic(self) -> None:
        self.now += 60
        self.automatic.tick()
        assert self.jobs.busy

    def ask(self, person: Person, **message: object) -> None:
        self.checkpoints.ask(cast(Client, person), dict(message))

    def end_job(self) -> None:
        """Let the job that is under way end, and tell the loop so."""
        self._go.release()
        assert select.select([self.jobs.wake], [], [], 10)[0], "the job says nothing"
        self.jobs.run_calls()


@pytest.fixture
def new() -> Iterator[Callable[..., Stage]]:
    with ExitStack() as undo:

        def make(**options: Any) -> Stage:
            stage = Stage(**options)
            undo.callback(os.close, stage.jobs.wake)
            return stage

        yield make


# -- a person and an automatic one


@pytest.mark.parametrize("stop", [False, True])
def test_a_person_waits_for_an_automatic_checkpoint_and_gets_a_snapshot_on_top_of_it(
    new: Callable[..., Stage], stop: bool
) -> None:
    stage, person = new(), Person()
    stage.begin_automatic()
    stage.ask(person, stop=stop, tags=["t"])
    assert person.told == [("status", "wait")]
    stage.end_job()
    assert stage.run.state.last_snapshot == "snapshot 1"
    assert person.told == [("status", "wait")]
    stage.end_job()
    assert person.told == [("status", "wait"), ("done", "snapshot 2")]
    first, second = stage.requests
    assert (first.automatic, first.reason, first.stop, first.tags) == (True, "every 1m", False, ())
    assert (second.automatic, second.reason, second.stop, second.tags) == (False, "requested", stop, ("t",))
    assert second.parent == "snapshot 1"
    assert stage.run.state.suspended_at == ("snapshot 2" if stop else "")
    assert not stage.jobs.busy


def test_a_person_gets_a_checkpoint_when_the_automatic_one_has_failed(new: Callable[..., Stage]) -> None:
    stage, person = new(), Person()
    stage.begin_automatic()
    stage.ask(person)
    stage.error = Refused("not now")
    stage.end_job()
    assert stage.run.state.checkpoint_error == "not now"
    stage.error = None
    stage.end_job()
    assert person.told[-1] == ("done", "snapshot 1")
    assert stage.run.state.checkpoint_error == "", "one that succeeded, whoever wanted it"


def test_a_second_person_is_told_that_one_is_under_way(new: Callable[..., Stage]) -> None:
    stage, first, second = new(), Person(), Person()
    stage.begin_automatic()
    stage.ask(first)
    with pytest.raises(Failure, match="under way"):
        stage.ask(second)
    stage.end_job()
    with pytest.raises(Failure, match="under way"):
        stage.ask(second)
    stage.end_job()
    assert first.told[-1] == ("done", "snapshot 2")
    stage.ask(second)
    stage.end_job()
    assert second.told[-1] == ("done", "snapshot 3")


def test_no_automatic_one_begins_while_a_person_s_is_under_way(new: Callable[..., Stage]) -> None:
    stage, person = new(), Person()
    stage.ask(person)
    stage.now += 1000
    assert stage.automatic.wait() is None, "the end of the job will tell"
    stage.automatic.tick()
    stage.end_job()
    assert len(stage.requests) == 1
    assert stage.automatic.wait() == 60


# -- giving up


def test_ctrl_c_of_a_person_who_waits_ends_the_waiting_and_not_the_automatic_one(new: Callable[..., Stage]) -> None:
    stage, person = new(), Person()
    stage.begin_automatic()
    stage.ask(person, stop=True)
    stage.checkpoints.cancel(cast(Client, person))
    assert isinstance(person.failure, Interrupted)
    assert person.failure.agent_state == "running, unharmed"
    stage.end_job()
    assert stage.run.state.last_snapshot == "snapshot 1"
    assert not stage.jobs.busy


def test_a_person_gives_up_his_own_checkpoint_and_nobody_else_s(new: Callable[..., Stage]) -> None:
    stage, person, other = new(), Person(), Person()
    stage.ask(person)
    stage.checkpoints.cancel(cast(Client, other))
    stage.end_job()
    assert person.told[-1] == ("done", "snapshot 1")
    stage.ask(person)
    stage.checkpoints.cancel(cast(Client, person))
    stage.end_job()
    assert isinstance(person.failure, Interrupted)


def test_who_has_gone_while_he_waited_is_not_served(new: Callable[..., Stage]) -> None:
    stage, person = new(), Person()
    stage.begin_automatic()
    stage.ask(person, stop=True)
    stage.checkpoints.forget(cast(Client, person))
    stage.end_job()
    assert not stage.jobs.busy
    assert stage.run.state.state == "running"


def test_stop_gives_up_the_automatic_checkpoint_and_whoever_waits(new: Callable[..., Stage]) -> None:
    stage, person = new(), Person()
    stage.begin_automatic()
    stage.ask(person)
    stage.checkpoints.give_up()
    stage.run.kill_at = 10.0
    stage.end_job()
    assert not stage.jobs.busy
    assert person.failure.agent_state == "being stopped"
    assert stage.run.state.last_snapshot == ""
    assert stage.run.state.checkpoint_error == "", "that is no failure"
    stage.now += 1000
    assert stage.automatic.wait() is None
    stage.automatic.tick()
    assert not stage.jobs.busy, "none begins in a run that is being stopped"


def test_none_begins_in_a_run_that_has_ended(new: Callable[..., Stage]) -> None:
    stage = new()
    stage.run.status = 0
    stage.now += 1000
    assert stage.automatic.wait() is None
    stage.automatic.tick()
    assert not stage.jobs.busy


# -- failures


@pytest.mark.parametrize("error", [Refused("no space left"), OSError("no space left"), ValueError("no space left")])
def test_a_failure_is_noted_and_tried_again_and_a_success_clears_it(
    new: Callable[..., Stage], error: Exception
) -> None:
    stage = new()
    stage.error = error
    for pause in (1, 2, 4):
        stage.begin_automatic()
        stage.end_job()
        assert "no space left" in stage.run.state.checkpoint_error
        assert stage.run.state.checkpoint_error_time
        assert stage.run.state.state == "running"
        assert stage.automatic.wait() == pause
    stage.error = None
    stage.begin_automatic()
    stage.end_job()
    assert (stage.run.state.checkpoint_error, stage.run.state.checkpoint_error_time) == ("", "")
    assert stage.run.state.last_snapshot == "snapshot 1"
    assert stage.automatic.wait() == 60


def test_a_failure_of_a_person_s_checkpoint_is_told_to_him_and_noted_nowhere(new: Callable[..., Stage]) -> None:
    stage, person = new(), Person()
    stage.error = Refused("not now")
    stage.ask(person)
    stage.end_job()
    assert person.failure is stage.error
    assert stage.run.state.checkpoint_error == ""
    assert stage.automatic.wait() == 60


def test_where_no_thread_can_be_had_it_is_a_failure_like_others(
    new: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    stage = new()
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    stage.now += 60
    stage.automatic.tick()
    monkeypatch.undo()
    assert "can't start new thread" in stage.run.state.checkpoint_error
    assert (stage.run.state.state, stage.jobs.busy) == ("running", False)
    stage.begin_automatic()
    stage.end_job()
    assert stage.run.state.checkpoint_error == ""


# -- older ones


def test_older_snapshots_go_after_an_automatic_one_that_is_written_down(new: Callable[..., Stage]) -> None:
    stage, person = new(keep_last=2), Person()
    stage.begin_automatic()
    stage.end_job()
    assert stage.run.state.last_snapshot == "snapshot 1"
    assert stage.jobs.busy
    stage.end_job()
    assert stage.thinned == ["snapshot 1"]
    stage.ask(person)
    stage.end_job()
    assert not stage.jobs.busy
    assert stage.thinned == ["snapshot 1"], "a person's own deletes nothing"


def test_nothing_is_deleted_while_the_state_on_the_disk_names_an_older_snapshot(new: Callable[..., Stage]) -> None:
    stage = new(keep_last=1)
    stage.run.is_written = False
    stage.begin_automatic()
    stage.end_job()
    assert not stage.jobs.busy
    assert stage.thinned == []


def test_a_deletion_that_fails_is_no_failed_checkpoint(new: Callable[..., Stage]) -> None:
    stage = new(keep_last=1)
    stage.begin_automatic()
    stage.end_job()
    stage.error = Failure("the store is away")
    stage.end_job()
    assert stage.run.state.checkpoint_error == ""
    assert stage.automatic.wait() == 60


def test_a_person_waits_for_a_deletion_too_and_goes_before_one(new: Callable[..., Stage]) -> None:
    stage, person = new(keep_last=1), Person()
    stage.begin_automatic()
    stage.end_job()
    assert stage.thinned == ["snapshot 1"]
    stage.ask(person)
    assert person.told == [("status", "wait")]
    stage.end_job()
    stage.end_job()
    assert person.told[-1] == ("done", "snapshot 2")
    stage.begin_automatic()
    stage.ask(person)
    stage.end_job()
    assert len(stage.requests) == 4, "the person's own has begun"
    stage.end_job()
    assert stage.thinned == ["snapshot 1"]


def test_a_real_client_is_told_how_it_went() -> None:
    from criu_agent.supervisor.checkpoints import _ForClient

    ours, far = socket.socketpair()
    client = Client(ours)
    asker = _ForClient(cast(Any, None), client)
    asker.status("wait", 0, 0)
    asker.failed(Refused("not now", agent_state="running, unharmed"))
    received = far.recv(1 << 16)
    assert b'"phase": "wait"' in received
    assert b"not now" in received
    client.close()
    far.close()
