"""The guests of a run: processes that `exec` has entered into its box. They are in no snapshot, and end with it."""

from collections.abc import Iterator

from criu_agent.box import enter, launch
from criu_agent.control import Message
from criu_agent.errors import Failure
from criu_agent.linux import process
from criu_agent.ops.live import Live
from criu_agent.supervisor.clients import Client
from criu_agent.supervisor.session import Guest, Session
from criu_agent.term.console import Pipes, Pty


class Guests:
    """Those that are there now."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._there: list[Guest] = []

    def __iter__(self) -> Iterator[Guest]:
        return iter(list(self._there))

    def enter(self, client: Client, message: Message) -> None:
        """The verb `exec` of a client."""
        spec = self._live.spec
        terminal = bool(message["terminal"])
        pipes = None if terminal else Pipes(with_input=True)
        command = launch.Command(
            argv=tuple(message["argv"]),
            env={**spec.env, **message["env"]},
            workdir=message["workdir"] or spec.workdir,
            user=message["user"] or spec.user,
            no_new_privs=spec.no_new_privs,
            stdio=pipes.ends.stdio() if pipes else None,
            window=(int(message.get("rows") or 24), int(message.get("columns") or 80)),
        )
        try:
            guest, master = enter.spawn(root_pid=self._live.root_pid, cgroup=self._live.cgroup, command=command)
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
        self._there.append(Guest(session, client, guest.pid, lambda: process.exit_status(guest)))

    def ended(self, guest: Guest) -> None:
        """Reap it, and tell its client."""
        self._there.remove(guest)
        code = guest.ended()
        guest.client.tell("ended", exit_code=code, suspended=False, snapshot="", leave="")
        guest.client.session = None
        guest.client.attached = False
        guest.client.closing = True


def _present(master: int | None) -> int:
    if master is None:
        raise Failure("the box gave no terminal")
    return master
