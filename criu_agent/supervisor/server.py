"""The loop of a supervisor: one thread that relays, answers, reaps, and ends the run."""

import dataclasses
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial

from criu_agent import control, log
from criu_agent.control import Kind, Message
from criu_agent.errors import Failure, Usage
from criu_agent.model import RunState
from criu_agent.ops import checkpoint, environment
from criu_agent.ops.live import Live
from criu_agent.supervisor import automatic, terminal
from criu_agent.supervisor.automatic import Automatic
from criu_agent.supervisor.checkpoints import Checkpoints
from criu_agent.supervisor.clients import Client
from criu_agent.supervisor.guests import Guests
from criu_agent.supervisor.jobs import Jobs
from criu_agent.supervisor.schedule import Schedule
from criu_agent.supervisor.session import Session
from criu_agent.supervisor.supervised import Supervised

_LINGER = 15.0  # seconds that a run which ended at once waits for the client that started it, while that lives
_LONGEST_TURN = _LONGEST_STOP = 1e6  # seconds; what poll takes at most is twice as long
_LAST_WORDS = 5.0  # seconds for clients to take what was sent to them at the end


class Server:
    """Serves one live run until it ends.

    awaited: the starter (a pid) will attach, so wait for it, as long as it lives, even if the run is over.
    """

    def __init__(self, live: Live, state: RunState, listener: socket.socket, *, starter: int, awaited: bool) -> None:
        self._schedule = Schedule(
            every=live.spec.every,
            on_idle=live.spec.on_idle,
            saved=bool(state.last_snapshot),
            clock=time.monotonic,
            cpu=automatic.cpu_seconds(live.cgroup),
        )
        self.run = Supervised(live, state, on_output=self._schedule.active)
        self._listener = listener
        self._clients: list[Client] = []
        self._jobs = Jobs()
        self._checkpoints = Checkpoints(self.run, self._jobs, self._schedule)
        self._automatic = Automatic(self.run, self._jobs, self._checkpoints, self._schedule)
        self._guests = Guests(live)
        self._awaited = awaited
        self._starter = starter
        self._signals = self._watch_signals()
        self._handlers: Mapping[str, Callable[[Client, Message], None]] = {
            "attach": self._attach,
            "resize": partial(terminal.resize, self.run),
            "detach": lambda client, _: terminal.detach(self.run, client),
            "checkpoint": self._checkpoints.ask,
            "cancel": lambda client, _: self._checkpoints.cancel(client),
            "plan": self._plan,
            "stop": self._stop,
            "kill": self._kill,
            "exec": self._guests.enter,
            "wait": self._wait,
            "ping": lambda client, _: self.run.done(client),
        }

    # -- the loop

    def serve(self) -> None:
        while self.run.status is None or self._jobs.busy:
            self._turn(self._timeout())
        self._finish()

    def _timeout(self) -> float | None:
        times = [self._automatic.wait(), *(session.tick() for session in self._sessions())]
        if self.run.kill_at is not None:
            times.append(max(self.run.kill_at - time.monotonic(), 0))
        due = [seconds for seconds in times if seconds is not None]
        return min(*due, _LONGEST_TURN) if due else None

    def _turn(self, timeout: float | None) -> None:
        sources = self._sources()
        poller = select.poll()
        for fd, (events, _) in sources.items():
            poller.register(fd, events)
        for fd, _ in poller.poll(None if timeout is None else timeout * 1000):
            sources[fd][1]()
        self.run.kill_if_due()
        self._automatic.tick()

    def _sources(self) -> dict[int, tuple[int, Callable[[], object]]]:
        """What to wait for: descriptor, events, and what to do then."""
        sources: dict[int, tuple[int, Callable[[], object]]] = {
            self._listener.fileno(): (select.POLLIN, self._accept),
            self._jobs.wake: (select.POLLIN, self._jobs.run_calls),
            self._signals: (select.POLLIN, self._on_signal),
        }
        # While CRIU has the tree it also has its dead: PID 1 could not be waited for, and CRIU may wait for us.
        if self.run.status is None and not self._jobs.busy:
            sources[self.run.root] = (select.POLLIN, self.run.reap)
        for guest in self._guests:
            sources[guest.pidfd] = (select.POLLIN, partial(self._guests.ended, guest))
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
        return [self.run.session, *(guest.session for guest in self._guests)]

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

    # -- the end

    def _finish(self) -> None:
        """The run is over: write it down, tell everybody, and take away what was made for it."""
        self.run.end()
        if self._awaited:
            self._linger()
        for guest in self._guests:
            self._guests.ended(guest)
        for client in self._clients:
            if client.attached or client.waits_for_end:
                of_terminal = client.attached and self.run.session.is_terminal
                client.tell(
                    "ended",
                    exit_code=self.run.exit_code,
                    suspended=self.run.suspended,
                    snapshot=self.run.state.last_snapshot,
                    leave=self.run.live.modes.leave().decode() if of_terminal else "",
                )
        self._say_last_words()
        self.run.close()

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
        self._checkpoints.forget(client)
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
            if client.session is self.run.session:
                self._schedule.active()
            client.session.give(payload)
        elif client.session is not None and kind is Kind.INPUT_END:
            client.session.end_input()

    def _handle(self, client: Client, payload: bytes) -> None:
        message = control.parse(payload)
        handler = self._handlers.get(str(message.get("verb")))
        if handler is None:
            raise Usage(f"this supervisor does not know {message.get('verb')!r}", hint="is it of another version?")
        handler(client, message)

    # -- verbs

    def _attach(self, client: Client, message: Message) -> None:
        self._awaited = False
        terminal.attach(self.run, client, message)

    def _wait(self, client: Client, _message: Message) -> None:
        client.waits_for_end = True

    def _plan(self, client: Client, _message: Message) -> None:
        live = self.run.live
        found = checkpoint.look(live)
        rows = [*checkpoint.judge(live, found), environment.planned(live, found)]
        self.run.done(client, rows=[dataclasses.asdict(row) for row in rows])

    def _stop(self, client: Client, message: Message) -> None:
        timeout = float(message.get("timeout", 10.0))
        if not 0 <= timeout <= _LONGEST_STOP:
            raise Usage(f"a run cannot be given {timeout:g} s to end", hint="--time takes 0 or more seconds")
        client.waits_for_end = True
        self._stop_run(timeout=timeout)

    def _stop_run(self, *, timeout: float) -> None:
        """TERM, and KILL after `timeout` seconds. A checkpoint that is under way is given up first."""
        self._checkpoints.give_up()
        self.run.stop(timeout=timeout)

    def _kill(self, client: Client, message: Message) -> None:
        number = int(message.get("signal", signal.SIGKILL))
        self._checkpoints.give_up()
        if self.run.status is None:
            if number == signal.SIGKILL:
                self.run.live.cgroup.kill()
            else:
                os.kill(self.run.live.root_pid, number)
        self.run.done(client)
