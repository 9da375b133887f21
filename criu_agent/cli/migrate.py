"""The verb that moves a run to another host."""

import dataclasses
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import click

from criu_agent import runs
from criu_agent.cli import show, state
from criu_agent.cli.attach import require_alive
from criu_agent.cli.context import Context, verb
from criu_agent.cli.options import files_choice
from criu_agent.cli.runs import wait_for_supervisor
from criu_agent.config import Config
from criu_agent.control import Client, Message, NoAnswer
from criu_agent.errors import Failure, Interrupted, Usage
from criu_agent.ops import migrate as ops
from criu_agent.ops import remote, ssh

_S3 = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,62}(/[A-Za-z0-9._=/-]{0,900})?")  # no user, no query: nothing secret
_STEPS = {
    "doctor": "asking whether {host} can",
    "suspend": "suspending {name} here",
    "restore": "restoring it on {host}",
    "go": "it is restored; handing it over",
    "fence": "it runs on {host}",
}


@verb("migrate")
@click.argument("run")
@click.argument("where", metavar="[USER@]HOST")
@click.option("-p", "--port", type=click.IntRange(1, 65535), help="Port of the sshd there")
@click.option("-i", "--identity", default="", metavar="FILE", help="Private key for ssh")
@click.option("--known-hosts", default="", metavar="FILE", help="The host keys to trust, instead of ssh's own")
@click.option("--remote-program", default="criu-agent", show_default=True, help="criu-agent there, by name or path")
@click.option("--sudo", is_flag=True, help="Run it there by sudo, which must not ask for a password")
@click.option("--theirs", is_flag=True, help="As `restore --theirs`, of files there that have changed")
@click.option("--ours", is_flag=True, help="As `restore --ours`, of files there that have changed")
@click.option("--into", metavar="DIR", help="As `restore --into`: make the working directory in DIR there")
@click.option("--shared-path", is_flag=True, help="The repository is a directory that HOST has at the same path")
@click.pass_obj
def migrate_verb(context: Context, /, run: str, where: str, shared_path: bool, **options: Any) -> int:  # noqa: ANN401
    """Move RUN to HOST over ssh: suspend it here, and have it go on there in the middle of what it was doing.

    HOST needs criu-agent and the repository. The working directory and --through paths come along; where HOST has
    other files in their place, you choose as with `restore`. Whatever goes wrong, RUN goes on here, unless HOST may
    have it already and cannot be asked: that is said then.

    Exit codes: 0 it runs there, 3 too, but connections were reset; 13 HOST has other files, 15 HOST cannot, 16 it
    cannot be saved now.
    """
    files = _files(options)
    program = str(options.pop("remote_program"))
    found = require_alive(runs.find(context.config, run))
    context.use_repository_of(found.spec)
    repository = _repository(context.config, shared=shared_path)
    context.repository()  # else it could be suspended, but not resumed here when the other host fails
    endpoint = () if context.config.local_repository else ("--endpoint-url", context.config.endpoint_url)
    store = ("--repo", repository, *(endpoint if context.config.endpoint_url else ()))
    with _Stop.armed() as stop:
        to = ssh.destination(where, program=program, **options)
        there = remote.There(to=to, store=store, files=files, check=stop.check)
        tell = _teller(context, found.spec.name, there.name)
        moved = ops.migrate(context.config, _Here(context, found, stop), there, tell=tell)
    _report(context, moved)
    return state.DEGRADED if moved.reset else 0


def _files(options: dict[str, Any]) -> tuple[str, ...]:
    """The options of `restore` for files there that have changed."""
    choice = files_choice({name: options.pop(name) for name in ("theirs", "ours")})
    into = options.pop("into")
    if into and not into.startswith("/"):
        raise Usage(f"--into {into} is of the other host", hint="give a path from / on")
    return (*([f"--{choice}"] if choice != "refuse" else []), *(["--into", into] if into else []))


def _repository(config: Config, *, shared: bool) -> str:
    """The URL that the target gets. Usage for one that it cannot have."""
    if config.local_repository:
        if not shared:
            raise Usage(
                f"the repository {config.local_repository[0]} is a directory of this host",
                hint="--shared-path if the other host has it under the same path; else keep the snapshots in S3",
            )
        return config.local_repository[0]
    if not _S3.fullmatch(config.repository):
        raise Usage(f"{config.repository} is no repository that another host can have", hint="s3://bucket/prefix")
    return config.repository


class _Stop:
    """The wish to stop: Ctrl-C, TERM or the end of the terminal. It is kept until somebody can act on it."""

    def __init__(self) -> None:
        self.wanted = False
        self._raises = False

    @classmethod
    @contextmanager
    def armed(cls) -> Iterator["_Stop"]:
        stop = cls()
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, stop._on_signal) for number in numbers}
        try:
            yield stop
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.wanted = True
        if self._raises:
            self._raises = False
            raise KeyboardInterrupt

    def check(self) -> None:
        if self.wanted:
            raise Interrupted("interrupted")

    @contextmanager
    def raising(self) -> Iterator[None]:
        """KeyboardInterrupt, once, for what waits in a system call."""
        self._raises = True
        try:
            if self.wanted:
                raise KeyboardInterrupt
            yield
        finally:
            self._raises = False


class _Here:
    """ops.migrate.Source: the run of this host."""

    def __init__(self, context: Context, run: runs.Run, stop: _Stop) -> None:
        self._context, self._run, self._stop = context, run, stop
        self._frozen_at = time.monotonic()

    def suspend(self) -> ops.Suspended:
        summary: Message = {"connections": []}
        progress = state.progress(self._context)
        with Client(self._run.socket) as client:
            client.send(verb="checkpoint", stop=True, reason="migrate")
            try:
                with self._stop.raising():
                    summary = client.answer(on_status=self._status(progress))
            except KeyboardInterrupt:
                # What counts is how the run is then: the answer may have been on its way.
                with suppress(NoAnswer, OSError):
                    summary = state.give_up(client)
            finally:
                progress.end()
        wait_for_supervisor(self._context, self._run)
        now = runs.by_id(self._context.config, self._run.spec.id)
        if now is None or now.state.state != "suspended":
            name = self._run.spec.name
            raise Failure(f"{name} ended while it was suspended", hint="criu-agent ps -a", agent_state="not running")
        crossing = [one for one in summary["connections"] if not one["internal"]]
        return ops.Suspended(run=now, frozen_at=self._frozen_at, connections=crossing)

    def _status(self, progress: show.ProgressLine) -> Any:  # noqa: ANN401 - a callback
        def on_status(status: Message) -> None:
            if status["phase"] == "dump":  # the freeze follows
                self._frozen_at = time.monotonic()
            progress(status)

        return on_status

    def resume(self, suspended: ops.Suspended) -> None:
        spec = suspended.run.spec
        with suppress(OSError):
            show.line(f"{spec.name} goes on here: it is resumed")
        snapshot = self._context.repository().read(suspended.snapshot)
        state.restore_snapshot(self._context, snapshot, files="ours")  # it was here, and goes on with what is here


def _teller(context: Context, name: str, host: str) -> Any:  # noqa: ANN401 - a callback
    def tell(step: str) -> None:
        with suppress(OSError):  # the terminal may have gone: that is no reason to leave the run where it is
            if context.options.json:
                show.message("status", phase=step)
            elif not context.options.quiet:
                show.line(_STEPS[step].format(name=name, host=host))

    return tell


def _report(context: Context, moved: ops.Moved) -> None:
    for connection in moved.reset:
        show.line(f"warning: {state.describe_reset(connection)}: it cannot go to another host")
    if moved.safety:
        show.line(f"the files that were there are in snapshot {moved.safety[:8]}")
    if moved.warning:
        show.line(f"warning: {moved.warning}")
    if context.options.json:
        show.message("summary", **dataclasses.asdict(moved))
    elif context.options.quiet:
        show.result(moved.run)
    else:
        show.result(f"{moved.name} runs on {moved.target} now; it stood still for {moved.downtime_ms} ms")
    sys.stdout.flush()
