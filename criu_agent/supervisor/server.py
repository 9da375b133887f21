"""The loop of a supervisor: one thread that relays, answers, reaps, and writes the run's state."""

import base64
import dataclasses
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from criu_agent import control, log, runs
from criu_agent.box import enter, launch
from criu_agent.control import Kind
from criu_agent.criu.dump import Cancel
from criu_agent.errors import Failure, Usage
from criu_agent.linux import proc, process
from criu_agent.model import RunState
from criu_agent.ops import checkpoint
from criu_agent.ops.live import Live
from criu_agent.ops.save import Request, Terminal
from criu_agent.supervisor.clients import Client
from criu_agent.supervisor.jobs import Jobs
from criu_agent.supervisor.output import OutputLog, records
from criu_agent.supervisor.session import Guest, Session
from criu_agent.term import typeahead
from criu_agent.term.console import Pipes, Pty, Stream

_LINGER = 15.0  # seconds that a run which ended at once waits for the client that started it, while that lives
_LONGEST_STOP = 1e6  # seconds; what poll takes at most is twice as long
_LAST_WORDS = 5.0  # seconds for clients to take what was sent to them at the end
Message = dict[str, Any]


class Server:
    """Serves one live run until it ends.

    awaited: the starter (a pid) will attach, so wait for it, as long as it lives, even if the run is over.
    """

    def __init__(self, live: Live, state: RunState, listener: socket.socket, *, starter: int, awaited: bool) -> None:
        self.live = live
        self.state = state
        self._listener = listener
        self._log = OutputLog(live.directory / "output.log")
        self._session = Session(live.console, self._record)
        self._session.restore_input(live.pending_input)
        self._clients: list[Client] = []
        self._guests: list[Guest] = []
        self._jobs = Jobs()
        self._cancel = Cancel()
        self._root = os.pidfd_open(live.root_pid)
        self._status: int | None = None  # wait status of PID 1
        self._suspended = False
        self._awaited = awaited
        self._starter = starter
        self._kill_at: float | None = None
        self._signals = self._watch_signals()
        self._handlers: Mapping[str, Callable[[Client, Message], None]] = {
            "attach": self._attach,
            "resize": self._resize,
            "detach": lambda client, _: self._detach(client),
            "checkpoint": self._checkpoint,
            "cancel": lambda _client, _message: self._give_up(),
            "plan": self._plan,
            "stop": self._stop,
            "kill": self._kill,
            "exec": self._exec,
            "wait": self._wait,
            "ping": lambda client, _: self._done(client),
        }

    # -- the loop

    def serve(self) -> None:
        while self._status is None or self._jobs.busy:
            self._turn(self._timeout())
        self._finish()

    def _timeout(self) -> float | None:
        times = [session.tick() for session in self._sessions()]
        if self._kill_at is not None:
            times.append(max(self._kill_at - time.monotonic(), 0))
        due = [seconds for seconds in times if seconds is not None]
        return min(due) if due else None

    def _turn(self, timeout: float | None) -> None:
        sources = self._sources()
        poller = select.poll()
        for fd, (events, _) in sources.items():
            poller.register(fd, events)
        for fd, _ in poller.poll(None if timeout is None else timeout * 1000):
            sources[fd][1]()
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._kill_at = None
            log.info("it did not stop in time, and is killed")
            self._kill_all()

    def _sources(self) -> dict[int, tuple[int, Callable[[], object]]]:
        """What to wait for: descriptor, events, and what to do then."""
        sources: dict[int, tuple[int, Callable[[], object]]] = {
            self._listener.fileno(): (select.POLLIN, self._accept),
            self._jobs.wake: (select.POLLIN, self._jobs.run_calls),
            self._signals: (select.POLLIN, self._on_signal),
        }
        # While CRIU has the tree it also has its dead: PID 1 could not be waited for, and CRIU may wait for us.
        if self._status is None and not self._jobs.busy:
            sources[self._root] = (select.POLLIN, self._reap)
        for guest in self._guests:
            sources[guest.pidfd] = (select.POLLIN, partial(self._guest_ended, guest))
        for session in self._sessions():
            reading, writing = session.readable(), session.wants_to_write()
            for fd in {*reading, *([] if writing is None else [writing])}:
                events = (select.POLLIN if fd in reading else 0) | (select.POLLOUT if fd == writing else 0)
                sources[fd] = (events, partial(session.serve, fd))
        for client in self._clients:
            waits = client.session is not None and client.session.input_is_full
            events = (0 if waits else select.POLLIN) | (select.POLLOUT if client.backlog else 0)
            sources[client.fileno()] = (events, partial(self._on_client, client))
        return sources

    def _sessions(self) -> list[Session]:
        return [self._session, *(guest.session for guest in self._guests)]

    def _watch_signals(self) -> int:
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        return reader

    def _on_signal(self) -> None:
        os.read(self._signals, 64)
        log.info("told to end: the run is stopped")
        self._stop_run(timeout=10.0)

    # -- the run

    def _set(self, **changes: Any) -> None:  # noqa: ANN401 - fields of RunState, checked by replace()
        self.state = dataclasses.replace(self.state, updated=runs.now(), **changes)
        try:
            runs.write_state(self.live.directory, self.state)
        except OSError as error:  # a full disk: the run goes on, and the next change is written again
            log.warning("cannot write the state %s: %s", self.state.state, error)

    def _record(self, stream: Stream, data: bytes) -> None:
        self._log.write(stream, data)
        self.live.scrollback.add(data)
        if self._session.is_terminal:
            self.live.modes.follow(data)

    def _reap(self) -> None:
        """Take the status of PID 1, if it has ended."""
        pid, status = os.waitpid(self.live.root_pid, os.WNOHANG) if self._status is None else (0, 0)
        if pid:
            self._status = status
            log.info("PID 1 of the box ended with wait status %#x", status)

    def _kill_all(self) -> None:
        try:
            self.live.cgroup.kill()
        except Failure as error:  # one hangs in the kernel: that is no reason to leave the others alone
            log.warning("%s", error.message)

    def _finish(self) -> None:
        """The run is over: write it down, tell everybody, and take away what was made for it."""
        self._kill_all()
        self._session.drain()
        code = _exit_code(self._status or 0)
        if self._suspended:
            self._set(state="suspended", root_pid=0)
        else:
            self._set(state="exited", exit_code=code, root_pid=0, network_lock="")
        if self._awaited:
            self._linger()
        for guest in list(self._guests):
            self._guest_ended(guest)
        for client in self._clients:
            if client.attached or client.waits_for_end:
                leave = self.live.modes.leave().decode() if client.attached and self._session.is_terminal else ""
                client.tell(
                    "ended",
                    exit_code=code,
                    suspended=self._suspended,
                    snapshot=self.state.last_snapshot,
                    leave=leave,
                )
        self._say_last_words()
        self._session.close()
        self._log.close()
        self.live.cgroup.remove()

    def _linger(self) -> None:
        deadline = time.monotonic() + _LINGER
        while self._awaited and os.getppid() == self._starter and (left := deadline - time.monotonic()) > 0:
            self._turn(min(left, 0.1))

    def _say_last_words(self) -> None:
        deadline = time.monotonic() + _LAST_WORDS
        while any(client.backlog for client in self._clients) and (left := deadline - time.monotonic()) > 0:
            self._turn(left)
        for client in self._clients:
            client.close()
        self._listener.close()

    # -- clients

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            log.warning("cannot accept a client: %s", error)
            return
        if control.peer_uid(connection) not in (0, os.geteuid()):
            log.warning("uid %d was sent away", control.peer_uid(connection))
            connection.close()
            return
        self._clients.append(Client(connection))

    def _on_client(self, client: Client) -> None:
        client.flush()
        frames = client.frames()
        if frames is None or (client.closing and not client.backlog):
            self._drop(client)
            return
        for kind, payload in frames:
            self._on_frame(client, kind, payload)

    def _drop(self, client: Client) -> None:
        if client.session is not None:
            client.session.detach(client)
        if client in self._clients:
            self._clients.remove(client)
        client.close()

    def _on_frame(self, client: Client, kind: Kind, payload: bytes) -> None:
        if kind is Kind.JSON:
            try:
                self._handle(client, payload)
            except Failure as error:
                client.fail(error)
            except Exception as error:  # noqa: BLE001 - a bug here must not take the supervisor, and the agent, down
                log.exception("a request failed")
                client.fail(Failure(f"internal error: {error!r}", hint="please report it with the supervisor.log"))
        elif client.session is not None and kind is Kind.OUTPUT:
            client.session.give(payload)
        elif client.session is not None and kind is Kind.INPUT_END:
            client.session.end_input()

    def _handle(self, client: Client, payload: bytes) -> None:
        message = control.parse(payload)
        handler = self._handlers.get(str(message.get("verb")))
        if handler is None:
            raise Usage(f"this supervisor does not know {message.get('verb')!r}", hint="is it of another version?")
        handler(client, message)

    def _done(self, client: Client, **fields: object) -> None:
        client.tell("summary", run=self.live.spec.id, name=self.live.spec.name, state=self.state.state, **fields)

    # -- verbs of the terminal

    def _attach(self, client: Client, message: Message) -> None:
        """Show what was printed so far (all of it to the starter, else a screenful), then follow."""
        self._awaited = False
        terminal = isinstance(self.live.console, Pty)
        client.tell("attached", terminal=terminal, input=terminal or self.live.spec.stdin_open)
        from_start = bool(message.get("from_start"))
        rows, columns = int(message.get("rows") or 24), int(message.get("columns") or 80)
        if terminal:
            client.output(Kind.OUTPUT, self.live.modes.enter())
            if not self.live.modes.full_screen or from_start:
                tail = self.live.scrollback.content() if from_start else self.live.scrollback.tail(rows)
                client.output(Kind.OUTPUT, tail)
        elif from_start:
            self._replay(client)
        self._session.attach(client)
        if terminal and message.get("rows"):
            client.window = (rows, columns)
            if self._status is None:
                self._session.redraw(rows, columns)

    def _replay(self, client: Client) -> None:
        for record in records(self.live.directory / "output.log"):
            client.output(Kind.OUTPUT if record.stream == "stdout" else Kind.ERROR_OUTPUT, record.data)

    def _resize(self, client: Client, message: Message) -> None:
        client.window = (int(message["rows"]), int(message["columns"]))
        session = client.session or self._session
        session.resize(*client.window)

    def _detach(self, client: Client) -> None:
        if client.session is not None:
            client.session.detach(client)
        client.tell("detached", reason="", leave=self.live.modes.leave().decode())

    def _wait(self, client: Client, _message: Message) -> None:
        client.waits_for_end = True

    # -- verbs of the state

    def _plan(self, client: Client, _message: Message) -> None:
        rows = checkpoint.judge(self.live, checkpoint.look(self.live))
        self._done(client, rows=[dataclasses.asdict(row) for row in rows])

    def _checkpoint(self, client: Client, message: Message) -> None:
        if self._jobs.busy:
            raise Failure("a checkpoint of this run is under way", hint="try again when it is done")
        self._cancel = Cancel()
        stop = bool(message.get("stop"))
        request = Request(
            stop=stop,
            reason=str(message.get("reason") or "requested"),
            tags=tuple(message.get("tags") or ()),
            sequence=self.state.sequence + 1,
            parent=self.state.last_snapshot,
        )
        self._set(state="checkpointing")

        def work() -> checkpoint.Summary:
            return checkpoint.checkpoint(
                self.live,
                request,
                save_terminal=lambda: self._jobs.in_loop(self._freeze_terminal),
                cancel=self._cancel,
                progress=lambda phase, done, total: self._jobs.post(
                    lambda: client.tell("status", phase=phase, bytes_done=done, bytes_total=total)
                ),
            )

        self._jobs.start(work, lambda summary, error: self._checkpointed(client, summary, error))

    def _freeze_terminal(self) -> Terminal:
        """In the loop, while the tree is frozen: nothing more will be printed, so read all that was."""
        self._session.drain()
        console = self.live.console
        unread = typeahead.peek(self.live.root_pid, console.master) if isinstance(console, Pty) else b""
        return Terminal(
            saved={
                **console.save(),
                "unread": base64.b64encode(unread).decode(),
                **self._session.save_input(),
                "modes": self.live.modes.enter().decode("latin-1"),
            },
            scrollback=self.live.scrollback.content(),
        )

    def _checkpointed(self, client: Client, summary: checkpoint.Summary | None, error: Failure | None) -> None:
        self._reap()
        if summary is None:
            self._set(state="running" if self._status is None else "exited")
            failure = error or Failure("the checkpoint failed")
            if self._status is not None or proc.is_ending(self.live.root_pid):
                failure.agent_state = "not running"
            elif self._kill_at is not None:
                failure.agent_state = "being stopped"
            client.fail(failure)
            return
        self._suspended = summary.stopped
        self._set(
            state="suspended" if summary.stopped else "running",
            last_snapshot=summary.snapshot,
            last_snapshot_time=summary.created,
            last_snapshot_size=summary.bytes_raw,
            sequence=summary.sequence,
            suspended_at=summary.snapshot if summary.stopped else "",
            network_lock=summary.network_lock,
        )
        self._done(client, **dataclasses.asdict(summary))

    def _give_up(self) -> None:
        self._cancel.wanted = True

    def _stop(self, client: Client, message: Message) -> None:
        timeout = float(message.get("timeout", 10.0))
        if not 0 <= timeout <= _LONGEST_STOP:
            raise Usage(f"a run cannot be given {timeout:g} s to end", hint="--time takes 0 or more seconds")
        client.waits_for_end = True
        self._stop_run(timeout=timeout)

    def _stop_run(self, *, timeout: float) -> None:
        """TERM, and KILL after `timeout` seconds. A checkpoint that is under way is given up first."""
        self._give_up()
        if self._status is None:
            os.kill(self.live.root_pid, signal.SIGTERM)
            self._kill_at = time.monotonic() + timeout

    def _kill(self, client: Client, message: Message) -> None:
        number = int(message.get("signal", signal.SIGKILL))
        self._give_up()
        if self._status is None:
            if number == signal.SIGKILL:
                self.live.cgroup.kill()
            else:
                os.kill(self.live.root_pid, number)
        self._done(client)

    # -- exec

    def _exec(self, client: Client, message: Message) -> None:
        terminal = bool(message["terminal"])
        pipes = None if terminal else Pipes(with_input=True)
        command = launch.Command(
            argv=tuple(message["argv"]),
            env={**self.live.spec.env, **message["env"]},
            workdir=message["workdir"] or self.live.spec.workdir,
            user=message["user"] or self.live.spec.user,
            stdio=pipes.ends.stdio() if pipes else None,
            window=(int(message.get("rows") or 24), int(message.get("columns") or 80)),
        )
        try:
            guest, master = enter.spawn(root_pid=self.live.root_pid, cgroup=self.live.cgroup, command=command)
        except BaseException:
            if pipes is not None:
                pipes.close()
            raise
        finally:
            if pipes is not None:
                pipes.ends.close()
        session = Session(pipes if pipes is not None else Pty(_present(master)))
        session.attach(client)
        client.tell("attached", terminal=terminal, input=True)
        self._guests.append(Guest(session, client, guest.pid, lambda: process.exit_status(guest)))

    def _guest_ended(self, guest: Guest) -> None:
        self._guests.remove(guest)
        code = guest.ended()
        guest.client.tell("ended", exit_code=code, suspended=False, snapshot="", leave="")
        guest.client.session = None
        guest.client.attached = False
        guest.client.closing = True


def _present(master: int | None) -> int:
    if master is None:
        raise Failure("the box gave no terminal")
    return master


def _exit_code(status: int) -> int:
    """The exit status that a shell would show: 128+N for a signal. dumb-init gives its child's in the same way."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
