"""Checkpoints of a live run: taken by a job beside the loop, one at a time."""

import base64
import dataclasses

from criu_agent.control import Message
from criu_agent.criu.dump import Cancel
from criu_agent.errors import Failure
from criu_agent.linux import proc
from criu_agent.ops import checkpoint
from criu_agent.ops.checkpoint import Summary
from criu_agent.ops.save import Request, Terminal
from criu_agent.supervisor.clients import Client
from criu_agent.supervisor.jobs import Jobs
from criu_agent.supervisor.supervised import Supervised
from criu_agent.term import typeahead
from criu_agent.term.console import Pty


class Checkpoints:
    """Takes what clients ask for, and tells them how it went."""

    def __init__(self, run: Supervised, jobs: Jobs) -> None:
        self._run = run
        self._jobs = jobs
        self._cancel = Cancel()

    def ask(self, client: Client, message: Message) -> None:
        """The verb `checkpoint` of a client."""
        if self._jobs.busy:
            raise Failure("a checkpoint of this run is under way", hint="try again when it is done")
        self._cancel = Cancel()
        request = Request(
            stop=bool(message.get("stop")),
            reason=str(message.get("reason") or "requested"),
            tags=tuple(message.get("tags") or ()),
            sequence=self._run.state.sequence + 1,
            parent=self._run.state.last_snapshot,
        )
        self._run.set(state="checkpointing")

        def work() -> Summary:
            return checkpoint.checkpoint(
                self._run.live,
                request,
                save_terminal=lambda: self._jobs.in_loop(self._freeze_terminal),
                cancel=self._cancel,
                progress=lambda phase, done, total: self._jobs.post(
                    lambda: client.tell("status", phase=phase, bytes_done=done, bytes_total=total)
                ),
            )

        self._jobs.start(work, lambda summary, error: self._ended(client, summary, error))

    def give_up(self) -> None:
        """Have the checkpoint that is under way, if any, undone."""
        self._cancel.wanted = True

    def _freeze_terminal(self) -> Terminal:
        """In the loop, while the tree is frozen: nothing more will be printed, so read all that was."""
        live, session = self._run.live, self._run.session
        session.drain()
        console = live.console
        unread = typeahead.peek(live.root_pid, console.master) if isinstance(console, Pty) else b""
        return Terminal(
            saved={
                **console.save(),
                "unread": base64.b64encode(unread).decode(),
                **session.save_input(),
                "modes": live.modes.enter().decode("latin-1"),
            },
            scrollback=live.scrollback.content(),
        )

    def _ended(self, client: Client, summary: Summary | None, error: Failure | None) -> None:
        run = self._run
        run.reap()
        if summary is None:
            run.set(state="running" if run.status is None else "exited")
            failure = error or Failure("the checkpoint failed")
            if run.status is not None or proc.is_ending(run.live.root_pid):
                failure.agent_state = "not running"
            elif run.kill_at is not None:
                failure.agent_state = "being stopped"
            client.fail(failure)
            return
        run.suspended = summary.stopped
        run.set(
            state="suspended" if summary.stopped else "running",
            last_snapshot=summary.snapshot,
            last_snapshot_time=summary.created,
            last_snapshot_size=summary.bytes_raw,
            sequence=summary.sequence,
            suspended_at=summary.snapshot if summary.stopped else "",
            network_lock=summary.network_lock,
        )
        run.done(client, **dataclasses.asdict(summary))
