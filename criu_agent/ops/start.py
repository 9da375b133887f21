"""Start a run: box, console, spawn."""

from collections.abc import Callable
from contextlib import ExitStack

from criu_agent import runs
from criu_agent.box import launch, mounts
from criu_agent.config import Config
from criu_agent.errors import ToolFailed
from criu_agent.model import RunSpec
from criu_agent.ops import live
from criu_agent.term.console import DEFAULT_SIZE, Console, Pipes, Pty


def start(
    config: Config, spec: RunSpec, *, window: tuple[int, int] = DEFAULT_SIZE, commit: Callable[[int], None]
) -> live.Live:
    """Start spec's command in a new box; returns when it has been executed. window is (rows, columns).

    commit(root_pid) is called when it has: the point of no return. The caller is single-threaded and in its own
    mount namespace. On an error nothing of the box is left.
    """
    live.require_layerable(spec)
    layout = live.layout(config, spec)
    mounts.prepare_upper(layout)
    with ExitStack() as undo:
        cgroup = live.make_cgroup(config, spec.id)
        undo.callback(cgroup.remove)
        undo.callback(cgroup.kill)
        pipes = None if spec.tty else Pipes(with_input=spec.stdin_open)
        if pipes is not None:
            undo.callback(pipes.close)
        command = launch.Command(
            argv=spec.argv,
            env=spec.env,
            workdir=spec.workdir,
            user=spec.user,
            no_new_privs=spec.no_new_privs,
            stdio=pipes.ends.stdio() if pipes else None,
            window=window,
        )
        started = launch.start(layout, command, cgroup, runs.runtime(config, spec.id) / "root")
        console = _console(pipes, started.master)
        commit(started.root_pid)
        undo.pop_all()
    return live.Live(
        config=config,
        spec=spec,
        layout=layout,
        cgroup=cgroup,
        root_pid=started.root_pid,
        console=console,
    )


def _console(pipes: Pipes | None, master: int | None) -> Console:
    if pipes is not None:
        pipes.ends.close()
        return pipes
    if master is None:
        raise ToolFailed("the box gave no terminal", hint="criu-agent doctor")
    return Pty(master)
