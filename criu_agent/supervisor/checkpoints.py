"""Checkpoints of a live run: taken by a job beside the loop, one at a time.

A person who asks while an automatic checkpoint is under way has to wait for that: what it stores need not be stored
again, and to undo it would take about as long. A second person is told that one is under way.
"""

import base64
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from criu_agent import log
from criu_agent.control import Message
from criu_agent.criu.dump import Cancel
from criu_agent.errors import Failure, Interrupted
from criu_agent.linux import proc
from criu_agent.ops import automatic, checkpoint, passphrase
from criu_agent.ops.checkpoint import Summary
from criu_agent.ops.save import Request, Terminal
from criu_agent.supervisor.clients import Client
from criu_agent.supervisor.jobs import Jobs
from criu_agent.supervisor.schedule import Schedule
from criu_agent.supervisor.supervised import Supervised
from criu_agent.term import typeahead
from criu_agent.term.console import Pty

_UNHARMED = "running, unharmed"


class Asker(Protocol):
    """Who wants a checkpoint. Each is called in the loop."""

    def status(self, phase: str, done: int, total: int) -> None:
        """How far it is; sizes in bytes."""

    def succeeded(self, summary: Summary) -> None:
        """The snapshot is durable, and written down in the run's state."""

    def failed(self, failure: Failure) -> None:
        """There is none."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is wanted, and by whom. client is none for an automatic checkpoint."""

    asker: Asker
    reason: str
    client: Client | None = None
    stop: bool = False
    tags: tuple[str, ...] = ()
    full: bool = False


class Checkpoints:
    """Takes what is ordered, and tells the schedule of it, whoever ordered it."""

    def __init__(
        self,
        run: Supervised,
        jobs: Jobs,
        schedule: Schedule,
        *,
        take: Callable[..., Summary] = checkpoint.checkpoint,
        thin_out: Callable[..., int] = automatic.thin_out,
    ) -> None:
        self._run = run
        self._jobs = jobs
        self._schedule = schedule
        self._take = take
        self._thin_out = thin_out
        self._cancel = Cancel()
        self._client: Client | None = None  # who wanted the one that is under way
        self._waiting: Order | None = None

    def ask(self, client: Client, message: Message) -> None:
        """The verb `checkpoint` of a client, who may know the passphrase that we lack."""
        if words := message.get("passphrase"):
            self._run.live.config = passphrase.hold(self._run.live.config, str(words).encode())
        self.order(
            Order(
                asker=_ForClient(self._run, client),
                client=client,
                stop=bool(message.get("stop")),
                reason=str(message.get("reason") or "requested"),
                tags=tuple(message.get("tags") or ()),
                full=bool(message.get("full")),
            )
        )

    def order(self, order: Order) -> None:
        """Begin it, or, while an automatic one is under way, have it wait. Failure if neither can be."""
        if not self._jobs.busy:
            self._begin(order)
        elif self._client is None and self._waiting is None and order.client is not None:
            self._waiting = order
            order.asker.status("wait", 0, 0)
        else:
            raise Failure("a checkpoint of this run is under way", hint="try again when it is done")

    def _begin(self, order: Order) -> None:
        self._cancel = cancel = Cancel()
        self._client = order.client
        request = Request(
            stop=order.stop,
            reason=order.reason,
            tags=order.tags,
            parent=self._run.state.last_snapshot,
            full=order.full,
            automatic=order.client is None,
        )
        self._run.set(state="checkpointing")

        def work() -> Summary:
            return self._take(
                self._run.live,
                request,
                save_terminal=lambda: self._jobs.in_loop(self._freeze_terminal),
                cancel=cancel,
                progress=lambda *how_far: self._jobs.post(lambda: order.asker.status(*how_far)),
            )

        try:
            self._jobs.start(work, lambda summary, error: self._ended(order, summary, error))
        except Failure as error:
            self._ended(order, None, error)

    # -- the end of one that should not be

    def cancel(self, client: Client) -> None:
        """Give up what that client has asked for, if it is not done yet."""
        if self._waiting is not None and self._waiting.client is client:
            waiting, self._waiting = self._waiting, None
            waiting.asker.failed(self._given_up())
        elif self._client is client:
            self.give_up()

    def forget(self, client: Client) -> None:
        """That client has gone: what it is waiting for is not begun any more."""
        if self._waiting is not None and self._waiting.client is client:
            self._waiting = None

    def give_up(self) -> None:
        """Have the checkpoint that is under way, if any, undone, and none begun that waits."""
        self._cancel.wanted = True

    def _given_up(self) -> Failure:
        return self._with_state(Interrupted("the checkpoint was given up", agent_state=_UNHARMED))

    def _with_state(self, failure: Failure) -> Failure:
        """Say how the run is, which may have ended, or been told to, since the failure."""
        if self._run.status is not None or self._is_ending():
            failure.agent_state = "not running"
        elif self._run.kill_at is not None:
            failure.agent_state = "being stopped"
        return failure

    def _is_ending(self) -> bool:
        try:
            return proc.is_ending(self._run.live.root_pid)
        except OSError as error:  # no descriptor is free, which may be why the checkpoint failed
            log.warning("cannot see whether the run is ending: %s", error)
            return False

    # -- in the loop, when the thread says so

    def _freeze_terminal(self) -> Terminal:
        """The tree is frozen: nothing more will be printed, so read all that was."""
        live, session = self._run.live, self._run.session
        session.drain()
        console = live.console
        unread = typeahead.peek(live.root_pid, console.master) if isinstance(console, Pty) else b""
        self._schedule.frozen()
        return Terminal(
            saved={
                **console.save(),
                "unread": base64.b64encode(unread).decode(),
                **session.save_input(),
                "modes": live.modes.enter().decode("latin-1"),
            },
            scrollback=live.scrollback.content(),
        )

    def _ended(self, order: Order, summary: Summary | None, error: Failure | None) -> None:
        run = self._run
        run.reap()
        if summary is None:
            run.set(state="running" if run.status is None else "exited")
            order.asker.failed(self._with_state(error or Failure("the checkpoint failed")))
        else:
            self._schedule.succeeded()
            run.suspended = summary.stopped
            run.set(
                state="suspended" if summary.stopped else "running",
                last_snapshot=summary.snapshot,
                last_snapshot_time=summary.created,
                last_snapshot_size=summary.bytes_raw,
                sequence=summary.sequence,
                suspended_at=summary.snapshot if summary.stopped else "",
                network_lock=summary.network_lock,
                checkpoint_error="",
                checkpoint_error_time="",
            )
            order.asker.succeeded(summary)
        # The state on the disk must not name a snapshot that is deleted: the next restore would look for that.
        if not self._begin_waiting() and summary is not None and order.client is None and run.is_written:
            self._begin_thinning(summary.snapshot)

    def _begin_waiting(self) -> bool:
        """Begin what waits, if there is any and it is still wanted; whether one was begun."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return False
        if self._cancel.wanted:
            waiting.asker.failed(self._given_up())
            return False
        self._begin(waiting)
        return True

    def _begin_thinning(self, newest: str) -> None:
        """A job of its own: the snapshot is durable, and what becomes of older ones is no failure of it."""
        if self._run.live.spec.keep_last is None or self._run.status is not None:
            return
        cancel = self._cancel

        def thinned(_: int | None, error: Failure | None) -> None:
            if error is not None and not isinstance(error, Interrupted):
                log.warning("cannot delete older snapshots: %s", error.message)
            self._run.reap()
            self._begin_waiting()

        try:
            self._jobs.start(lambda: self._thin_out(self._run.live, newest=newest, cancel=cancel), thinned)
        except Failure as error:
            thinned(None, error)


class _ForClient:
    """A client that asked for a checkpoint and waits for the answer."""

    def __init__(self, run: Supervised, client: Client) -> None:
        self._run = run
        self._client = client

    def status(self, phase: str, done: int, total: int) -> None:
        self._client.tell("status", phase=phase, bytes_done=done, bytes_total=total)

    def succeeded(self, summary: Summary) -> None:
        self._run.done(self._client, **dataclasses.asdict(summary))

    def failed(self, failure: Failure) -> None:
        self._client.fail(failure)
