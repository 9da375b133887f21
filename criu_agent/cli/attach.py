"""The verb that puts a person in front of a run, and what it shares with others: attach."""

import os

import click

from criu_agent import runs
from criu_agent.cli import show, terminal
from criu_agent.cli.context import Context, verb
from criu_agent.control import Client
from criu_agent.errors import Failure, ToolFailed

SUSPENDED = 75  # EX_TEMPFAIL: schedulers put the job back into the queue


@verb("attach", gives_code=True)
@click.argument("run", default=".")
@click.option("--detach-keys", default=terminal.DETACH_KEYS, show_default=True, help="Keys that detach the terminal")
@click.pass_obj
def attach_verb(context: Context, /, run: str, detach_keys: str) -> int:
    """Attach this terminal to RUN; several may be attached at once. ctrl-\\ detaches.

    Exit codes: the command's own when it ends, 75 when it is suspended, 0 after detaching.
    """
    found = runs.find(context.config, run)
    _require_not_moved(found)
    if not found.alive:
        raise Failure(
            f"{found.spec.name} is {found.shown_state}, there is nothing to attach to",
            hint=f"criu-agent resume {found.spec.name}" if found.state.last_snapshot else "criu-agent ps -a",
        )
    return attach(context, found.spec.id, keys=terminal.parse_detach_keys(detach_keys), from_start=False)


def attach(context: Context, run_id: str, *, keys: bytes, from_start: bool) -> int:
    """Attach to a run that is up, and follow it to its end; the exit code for this process."""
    run = runs.by_id(context.config, run_id)
    if run is None:
        raise ToolFailed("the run has gone", hint="criu-agent ps -a lists the runs")
    size = dict(zip(("rows", "columns"), terminal.window(), strict=True)) if os.isatty(0) else {}

    def pass_on(number: int) -> None:
        with Client(run.socket) as other:
            other.call(verb="kill", signal=number)

    with Client(run.socket) as client:
        client.send(verb="attach", from_start=from_start, **size)
        ended = terminal.follow(client, detach_keys=keys, signal_run=pass_on)
    return _tell_end(context, run.spec.name, ended)


def _tell_end(context: Context, name: str, ended: terminal.Ended) -> int:
    if ended.exit_code is None:
        if not context.options.quiet:
            reason = f": {ended.reason}" if ended.reason else ""
            show.line(f"\r\ndetached from {name}{reason}; it goes on  (criu-agent attach {name})")
        return 0
    if ended.suspended:
        if not context.options.quiet:
            show.line(f"\r\n{name} was suspended at snapshot {ended.snapshot[:8]}  (criu-agent resume {name})")
        return SUSPENDED
    return ended.exit_code


def _require_not_moved(run: runs.Run) -> None:
    if run.shown_state == "fenced":
        host = run.state.moved_to
        raise Failure(f"{run.spec.name} has moved to {host}", hint=f"criu-agent ps on {host}")


def require_alive(run: runs.Run) -> runs.Run:
    _require_not_moved(run)
    if not run.alive:
        state = run.shown_state
        hint = f"criu-agent resume {run.spec.name}" if run.state.last_snapshot else "criu-agent ps -a"
        raise Failure(f"{run.spec.name} is {state}, not running", hint=hint)
    return run
