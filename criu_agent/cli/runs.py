"""The verbs of docker's daily life: ps, logs, wait, stop, kill, rm, inspect."""

import dataclasses
import shlex
import signal
import sys
import time
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from criu_agent import durations, runs
from criu_agent.box.cgroup import Cgroup, find_root
from criu_agent.cli import show
from criu_agent.cli.attach import SUSPENDED, require_alive
from criu_agent.cli.context import Context, verb
from criu_agent.control import Client, Message, NoAnswer
from criu_agent.errors import Failure, Interrupted, NotFound, Timeout, Usage
from criu_agent.model import RunState

if TYPE_CHECKING:
    from criu_agent.supervisor.output import Piece

_SHOWN = frozenset({"starting", "running", "checkpointing", "suspended", "restoring", "degraded"})
_FOLLOW_EVERY = 0.1  # seconds
_LONGEST = 1e6  # seconds that one can wait for


@verb("ps")
@click.option("-a", "--all", "everything", is_flag=True, help="Show the runs that have ended, too")
@click.option("--no-trunc", is_flag=True, help="Do not cut the command")
@click.pass_obj
def ps_verb(context: Context, /, everything: bool, no_trunc: bool) -> None:
    """List the runs of this host."""
    found = [run for run in runs.every(context.config) if everything or run.shown_state in _SHOWN]
    if context.options.json:
        show.document([_described(run) for run in found])
    elif context.options.quiet:
        for run in found:
            show.result(run.spec.id)
    else:
        header = ("RUN", "NAME", "STATE", "COMMAND", "CREATED", "LAST-SNAPSHOT", "SIZE", "EPOCH")
        show.table(header, [_row(run, no_trunc) for run in found], color=context.color)


def _row(run: runs.Run, no_trunc: bool) -> tuple[object, ...]:
    command = shlex.join(run.spec.argv)
    state = run.shown_state
    if state == "exited":
        state = f"exited ({run.state.exit_code})"
    elif run.alive and run.state.checkpoint_error:
        state = f"{state} (checkpoint failing)"
    return (
        run.spec.id,
        run.spec.name,
        state,
        command if no_trunc or len(command) <= 30 else command[:29] + "…",
        show.age(run.spec.created),
        _last_snapshot(run.state),
        show.size(run.state.last_snapshot_size) if run.state.last_snapshot else "-",
        run.state.epoch,
    )


def _last_snapshot(state: RunState) -> str:
    """Its id, and how old what it holds is by now."""
    age = _snapshot_age(state)
    return "-" if age is None else f"{state.last_snapshot[:8]} {durations.rough(age)} ago"


def _snapshot_age(state: RunState) -> float | None:
    """Seconds since the run was frozen for its newest durable snapshot; None without one."""
    return show.seconds_since(state.last_snapshot_time) if state.last_snapshot_time else None


def _described(run: runs.Run) -> dict[str, object]:
    return {
        "run": run.spec.id,
        "name": run.spec.name,
        "state": run.shown_state,
        "command": list(run.spec.argv),
        "workdir": run.spec.workdir,
        "created": run.spec.created,
        "labels": dict(run.spec.labels),
        "pid": run.state.root_pid or None,
        "exit_code": run.state.exit_code,
        "last_snapshot": run.state.last_snapshot or None,
        "last_snapshot_time": run.state.last_snapshot_time or None,
        "age_seconds": _snapshot_age(run.state),
        "checkpoint_error": run.state.checkpoint_error or None,
        "checkpoint_error_time": run.state.checkpoint_error_time or None,
        "size": run.state.last_snapshot_size,
        "epoch": run.state.epoch,
        "error": run.state.error or None,
    }


@verb("inspect")
@click.argument("wanted", metavar="RUN...", nargs=-1, required=True)
@click.pass_obj
def inspect_verb(context: Context, /, wanted: tuple[str, ...]) -> None:
    """Show everything that is known of RUN as JSON. Values of its environment are left out."""
    documents = []
    for name in wanted:
        run = runs.find(context.config, name)
        spec = {**dataclasses.asdict(run.spec), "env": sorted(run.spec.env)}
        state = {**dataclasses.asdict(run.state), "state": run.shown_state, "supervised": run.alive}
        documents.append(
            {
                "spec": spec,
                "state": state,
                "processes": _processes(run),
                "directory": str(run.directory),
                "socket": str(run.socket),
            }
        )
    show.document(documents)


def _processes(run: runs.Run) -> list[dict[str, object]]:
    """The run's processes as the host sees them, PID 1 of the box first."""
    from criu_agent.linux import proc, usage

    if not runs.box_is_alive(run):
        return []
    return usage.of(process.pid for process in proc.tree(run.state.root_pid))


@verb("logs")
@click.argument("wanted", metavar="RUN", default=".")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends")
@click.option("-n", "--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines")
@click.option("-t", "--timestamps", is_flag=True, help="Show when each line was begun")
@click.pass_obj
def logs_verb(context: Context, /, wanted: str, follow: bool, tail: int | None, timestamps: bool) -> None:
    """Show what RUN printed. Its standard error goes to standard error."""
    from criu_agent.supervisor import output

    run = runs.find(context.config, wanted)
    kept: deque[output.Piece] | None = None if tail is None else deque()
    over = not follow
    for piece in output.pieces(output.follow(run.directory / "output.log")):
        if piece is not None and kept is None:
            _print_piece(piece, timestamps, as_json=context.options.json)
        elif piece is not None and kept is not None:
            kept.append(piece)
            while kept and kept[0].line <= piece.newest - (tail or 0):
                kept.popleft()
        else:  # everything that is there was read
            for last in kept or ():
                _print_piece(last, timestamps, as_json=context.options.json)
            kept = None
            if over:
                return
            time.sleep(_FOLLOW_EVERY)
            over = not (still := runs.by_id(context.config, run.spec.id)) or not still.alive


def _print_piece(piece: "Piece", timestamps: bool, *, as_json: bool) -> None:
    if as_json:
        text = piece.data.decode(errors="replace")
        show.message("output", stream=piece.stream, time=_moment(piece.time_ns), text=text)
        return
    target = sys.stdout if piece.stream == "stdout" else sys.stderr
    if timestamps and piece.begins:
        target.buffer.write(f"{_moment(piece.time_ns)} ".encode())
    target.buffer.write(piece.data)
    target.flush()


def _moment(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _seconds(_context: click.Context, _parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 <= value <= _LONGEST:  # also for what is not a number
        raise click.BadParameter(f"{value:g} is not from 0 to {_LONGEST:g}")
    return value


@verb("wait", gives_code=True)
@click.argument("wanted", metavar="RUN", default=".")
@click.option(
    "--timeout", type=float, callback=_seconds, metavar="SECONDS", help="Give up after that, with exit code 124"
)
@click.pass_obj
def wait_verb(context: Context, /, wanted: str, timeout: float | None) -> int:
    """Wait until RUN ends, and exit with its code; 75 when it was suspended."""
    run = runs.find(context.config, wanted)
    if run.alive:
        _await_end(context, run, {"verb": "wait"}, timeout=timeout)
    code = _end_code(context, run.spec.id)
    if context.options.json:
        show.message("summary", run=run.spec.id, name=run.spec.name, exit_code=code, suspended=code == SUSPENDED)
    return code


def _await_end(context: Context, run: runs.Run, request: Message, *, timeout: float | None = None) -> None:
    """Send the request and wait until the supervisor has ended; one that is just ending need not answer."""
    try:
        with Client(run.socket) as client:
            client.socket.settimeout(timeout)
            client.send(**request)
            while not any(b'"ended"' in payload for _, payload in client.received()):
                pass
    except TimeoutError as error:
        raise Timeout(f"{run.spec.name} still runs after {timeout:g} s") from error
    except KeyboardInterrupt:
        raise Interrupted("interrupted", agent_state="running") from None
    except (ConnectionError, NoAnswer):
        pass
    wait_for_supervisor(context, run)


def _end_code(context: Context, run_id: str) -> int:
    run = runs.by_id(context.config, run_id)
    if run is None:  # it was started with --rm
        return 0
    if run.state.state == "suspended":
        return SUSPENDED
    if run.state.exit_code is None:
        raise Failure(
            f"{run.spec.name} is {run.shown_state}: {run.state.error}", hint="criu-agent inspect shows more"
        )
    return run.state.exit_code


@verb("stop")
@click.argument("wanted", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "-t",
    "--time",
    "timeout",
    type=float,
    callback=_seconds,
    default=10.0,
    show_default=True,
    help="Seconds until KILL",
)
@click.pass_obj
def stop_verb(context: Context, /, wanted: tuple[str, ...], timeout: float) -> None:
    """End RUN: TERM, and KILL if it still runs after a while. Nothing is saved; `suspend` does that."""
    for run in [runs.find(context.config, name) for name in wanted]:
        _stop(context, run, timeout)
        _done(context, run)


def _done(context: Context, run: runs.Run) -> None:
    if context.options.json:
        show.message("summary", run=run.spec.id, name=run.spec.name)
    else:
        show.result(run.spec.name)


def _stop(context: Context, run: runs.Run, timeout: float) -> None:
    if run.alive:
        _await_end(context, run, {"verb": "stop", "timeout": timeout})
    kill_orphan(context, run)  # of a supervisor that was killed, now or before


@verb("kill")
@click.argument("wanted", metavar="RUN...", nargs=-1, required=True)
@click.option("-s", "--signal", "name", default="KILL", show_default=True, help="Signal to send")
@click.pass_obj
def kill_verb(context: Context, /, wanted: tuple[str, ...], name: str) -> None:
    """Send a signal to RUN. KILL ends every process of it; others go to its main process."""
    number = _signal_number(name)
    for run in [runs.find(context.config, name) for name in wanted]:
        if run.shown_state == "degraded":
            kill_orphan(context, run)
        else:
            _kill(context, require_alive(run), number)
        _done(context, run)


def _kill(context: Context, run: runs.Run, number: int) -> None:
    try:
        with Client(run.socket) as client:
            client.call(verb="kill", signal=number)
    except NoAnswer:  # it is just ending
        wait_for_supervisor(context, run)
        require_alive(runs.find(context.config, run.spec.id))
    if number == signal.SIGKILL:
        wait_for_supervisor(context, run)


def _signal_number(name: str) -> int:
    names = {**signal.Signals.__members__, **{str(int(number)): number for number in signal.valid_signals()}}
    number = names.get(name) or names.get(f"SIG{name.upper().removeprefix('SIG')}")
    if number is None:
        raise Usage(f"{name!r} is no signal", hint="for example TERM, INT, KILL")
    return int(number)


@verb("rm")
@click.argument("wanted", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "-f", "--force", is_flag=True, help="Kill it first if it runs, and do not ask; no error if there is none"
)
@click.pass_obj
def rm_verb(context: Context, /, wanted: tuple[str, ...], force: bool) -> None:
    """Forget RUN: its directory, log, and what it wrote outside of its working directory. Its snapshots stay.

    What it wrote there and no snapshot has is shown before it is gone: in a terminal you are asked, elsewhere it is
    refused without -f or -y. Caches, logs and what is in /tmp are not worth a question. The container image that it
    lives in stays as well: `prune --images` removes those that no run lives in.
    """
    from criu_agent.cli.layer import confirm_loss
    from criu_agent.ops import layer, network

    for name in wanted:
        try:
            run = runs.find(context.config, name)
        except NotFound:
            if force:
                continue
            raise
        if (run.alive or run.shown_state == "degraded") and not force:
            raise Failure(f"{run.spec.name} is {run.shown_state}", hint=f"criu-agent rm -f {run.spec.name}")
        if not force:
            confirm_loss(context, run)
        _stop(context, run, 0.0)
        network.release(run)
        layer.clean(run)
        runs.remove(run)
        _done(context, run)


def kill_orphan(context: Context, run: runs.Run) -> None:
    """End what is left of a run whose supervisor was killed; nothing if it has one."""
    now = runs.by_id(context.config, run.spec.id)
    if now is None or now.alive:
        return
    hierarchy = find_root(_mountinfo())
    cgroup = Cgroup.existing(hierarchy, run.spec.id) if hierarchy else None
    if cgroup is not None:
        cgroup.kill()
        cgroup.remove()


def _mountinfo() -> str:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return file.read()


def wait_for_supervisor(context: Context, run: runs.Run) -> None:
    """Wait until the supervisor has cleaned up, so that the next command finds the run ended."""
    deadline = time.monotonic() + 15
    while (found := runs.by_id(context.config, run.spec.id)) is not None and found.alive:
        if time.monotonic() > deadline:
            raise Timeout(
                f"the supervisor of {run.spec.name} does not end", hint=f"see {run.directory}/supervisor.log"
            )
        time.sleep(0.01)
