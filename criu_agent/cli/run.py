"""The verbs that start a command in a box: run, exec."""

import os
import signal as signals
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from criu_agent import config as configuration
from criu_agent import runs
from criu_agent.cli import show, terminal
from criu_agent.cli.attach import attach, require_alive
from criu_agent.cli.context import Context, verb
from criu_agent.cli.options import duration, files_choice
from criu_agent.control import Client
from criu_agent.errors import HostCannot, Interrupted, Usage
from criu_agent.linux import cpu, cpu_baseline, proc, users
from criu_agent.linux.users import User
from criu_agent.model import RunSpec
from criu_agent.supervisor import spawn

_LITERAL = {
    "ignore_unknown_options": True,
    "allow_interspersed_args": False,
    "help_option_names": ["-h", "--help"],
}


def pairs(values: Sequence[str], *, inherit: bool = False) -> dict[str, str]:
    """K=V options as a dict. inherit: a bare K takes its value from the environment, as docker's -e."""
    found: dict[str, str] = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not key or (not equals and not inherit):
            raise Usage(f"{value!r} is not KEY=VALUE")
        if equals:
            found[key] = text
        elif key in (environment := configuration.user_environment()):
            found[key] = environment[key]
    return found


@verb("run", gives_code=True, context_settings=_LITERAL)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--name", help="Name of the run; by default from the command")
@click.option("-d", "--detach", is_flag=True, help="Start it in the background and print its id")
@click.option("-i", "--interactive", is_flag=True, help="Keep standard input open, also with --detach")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal, also with --detach")
@click.option("--rm", "remove", is_flag=True, help="Remove the run at its end; snapshots stay")
@click.option("-w", "--workdir", type=click.Path(), help="Working directory; it is the host's own")
@click.option("-e", "--env", multiple=True, metavar="K[=V]", help="Set a variable in the environment")
@click.option("-l", "--label", multiple=True, metavar="K=V", help="Label the run and its snapshots")
@click.option("-u", "--user", metavar="USER[:GROUP]", help="By default who called, through sudo too")
@click.option("--no-new-privs", is_flag=True, help="Nothing gains privileges: sudo fails")
@click.option(
    "--cpu-baseline",
    type=click.Choice(list(cpu_baseline.LEVELS)),
    help="Keep it to what older processors have, too",
)
@click.option("--net", type=click.Choice(["host"]), default="host", help="Network of the run", show_default=True)
@click.option(
    "--fs",
    type=click.Choice(["overlay", "host"]),
    default="overlay",
    help="host: no own layer (default: overlay)",
)
@click.option("--image", metavar="IMAGE", help="Root: a `docker save` file or engine's image")
@click.option(
    "--closure",
    type=click.Choice(["none", "lean", "full"]),
    default="lean",
    help="Files of the host in its snapshots: what it uses (lean, default), what it may load later too (full)",
)
@click.option("--through", multiple=True, metavar="PATH", help="Write PATH through to the host as well")
@click.option("--capture", multiple=True, metavar="PATH", help="Have PATH of the host in snapshots, too")
@click.option("--no-agent-state", is_flag=True, help="Do not write ~/.claude and the like through")
@click.option(
    "--exclude",
    multiple=True,
    metavar="GLOB",
    help="Leave files of that name, or path if it has a slash, out of snapshots",
)
@click.option("--every", metavar="TIME", help="Take a snapshot every 90s, 5m, 2h or 1d")
@click.option("--on-idle", metavar="TIME", help="Take one when it was idle for so long: 30s")
@click.option("--keep-last", type=click.IntRange(min=1), metavar="N", help="Keep only the newest N of these")
@click.option("--restore-if-exists", is_flag=True, help="Resume the run of that --name, if any")
@click.option("--theirs", is_flag=True, help="With --restore-if-exists: restore --theirs")
@click.option("--ours", is_flag=True, help="With --restore-if-exists: restore --ours")
@click.option("--detach-keys", default=terminal.DETACH_KEYS, show_default=True, help="Keys that detach")
@click.pass_obj
def run_verb(context: Context, /, command: tuple[str, ...], **options: Any) -> int:  # noqa: ANN401 - click's values
    """Start COMMAND as a run: it can be checkpointed, suspended and restored from then on.

    In a terminal this is start plus attach: ctrl-\\ detaches, and the run goes on. The working directory is
    the real one, and so is what known agents keep of themselves (login, settings, history: ~/.claude, ~/.codex ...);
    everything else that the command writes goes to a layer of the run's own.

    With --image everything but these is of that container image. Its variables (PATH) are set instead of the host's,
    and without --workdir the command starts in the directory that it names. Its entry point is not used.

    A snapshot of --every or --on-idle that cannot be taken never stops the run: it is tried again, and `ps` says so.
    A run is idle when it prints nothing, is given no input and uses hardly any CPU time; it is saved once then.

    Exit codes: the command's own, 128+N for a signal, 75 when the run was suspended, 125 when criu-agent
    failed, 126 when COMMAND cannot be executed, 127 when there is none.
    """
    keys = terminal.parse_detach_keys(str(options["detach_keys"]))
    files = files_choice(options)
    if files != "refuse" and not options["restore_if_exists"]:
        raise Usage(f"--{files} is of files that a restore finds changed", hint="it goes with --restore-if-exists")
    if options["restore_if_exists"] and (old := _existing(context, options["name"])) is not None:
        from criu_agent.cli.state import bring_back

        return bring_back(context, old.spec.name, at=None, detach=bool(options["detach"]), keys=keys, files=files)
    spec = _spec(context, command, options)
    _settle_passphrase(context)
    runs.create(context.config, spec)
    foreground = not options["detach"]
    try:
        window = terminal.window() if terminal.is_terminal() else (24, 80)
        arguments = ["--rows", str(window[0]), "--columns", str(window[1])]
        spawn.bring_up(context.config, spec.id, [*arguments, *(["--awaited"] if foreground else [])])
    except BaseException:
        _forget(context, spec.id)
        raise
    if not foreground:
        report_started(context, spec)
        return 0
    return attach(context, spec.id, keys=keys, from_start=True)


def _settle_passphrase(context: Context) -> None:
    """Ask for the passphrase while somebody is there: the run's supervisor has no terminal when it saves the run."""
    if context.ask_passphrase is None:
        return
    from criu_agent.ops import passphrase

    if passphrase.is_needed(context.config):
        context.repository()


def report_started(context: Context, spec: RunSpec, **more: object) -> None:
    if context.options.json:
        show.message("summary", run=spec.id, name=spec.name, **more)
    elif context.options.quiet:
        show.result(spec.id)
    else:
        show.result(f"{spec.id}  {spec.name}")


def _existing(context: Context, name: object) -> runs.Run | None:
    if not name:
        raise Usage(
            "--restore-if-exists needs a --name", hint="criu-agent run --name NAME --restore-if-exists -- CMD"
        )
    found = [run for run in runs.every(context.config) if run.spec.name == name]
    return found[0] if found and found[0].state.last_snapshot and not found[0].alive else None


def _spec(context: Context, command: tuple[str, ...], options: dict[str, Any]) -> RunSpec:
    run_id = runs.new_id()
    name = str(options["name"] or "") or f"{_stem(command[0])}-{run_id[:4]}"
    workdir = os.path.realpath(str(options["workdir"] or "."))
    through = [os.path.realpath(str(path)) for path in _texts(options["through"])]
    _require_apart(context, [workdir, *through])
    with_terminal = bool(options["tty"]) or (terminal.is_terminal() and not options["detach"])
    if with_terminal and not options["detach"] and not os.isatty(0):
        raise Usage("--tty needs a terminal on standard input", hint="use --detach --tty, or leave --tty out")
    user = _user(options["user"] or configuration.user_behind_sudo() or f"{os.getuid()}:{os.getgid()}")
    known = user.environment if options["user"] or configuration.user_behind_sudo() else {}
    image, start, env = _root(context, options, workdir, {**configuration.user_environment(), **known})
    env |= pairs(_texts(options["env"]), inherit=True)
    kept = {} if options["no_agent_state"] else _agent_state(context, command, env, user.numbers)
    if options["keep_last"] and not (options["every"] or options["on_idle"]):
        raise Usage(
            "--keep-last is of automatic snapshots", hint="say when they are taken: --every 5m, --on-idle 30s"
        )
    return RunSpec(
        id=run_id,
        name=runs.check_name(name),
        argv=command,
        workdir=start,
        env=_kept_to(options["cpu_baseline"], env),
        user=user.numbers,
        user_namespace=user.uid != 0 and not proc.has_sys_resource(os.getpid()),
        cpu_baseline=options["cpu_baseline"] or "",
        no_new_privs=bool(options["no_new_privs"]),
        tty=with_terminal,
        stdin_open=bool(options["interactive"]) or not options["detach"],
        fs=options["fs"],
        image=image,
        closure=options["closure"],
        through=(workdir, *through, *kept),
        agent_state=kept,
        capture=_captured(_texts(options["capture"])),
        exclude=_globs(_texts(options["exclude"])),
        labels=pairs(_texts(options["label"])),
        **runs.repository_of(context.config),
        remove_on_exit=bool(options["remove"]),
        every=duration("--every", options["every"]),
        on_idle=duration("--on-idle", options["on_idle"]),
        keep_last=options["keep_last"],
        created=runs.now(),
    )


def _root(
    context: Context, options: dict[str, Any], workdir: str, env: dict[str, str]
) -> tuple[str, str, dict[str, str]]:
    """The digest of the container image, where the command starts in it, and its environment there."""
    if not options["image"]:
        return "", workdir, env
    if options["fs"] == "host" or options["capture"]:
        raise Usage(
            "--fs host and --capture are of the host's own root, and --image is another", hint="leave one out"
        )
    from criu_agent.ops import containers

    image = containers.bring(context.config, str(options["image"]))
    its = containers.settings(context.config, image)
    start = (not options["workdir"] and its.workdir) or workdir
    return image, start, configuration.in_image(env, its.env)


def _agent_state(context: Context, command: Sequence[str], env: dict[str, str], user: str) -> dict[str, str]:
    """What known agents keep, to be written through, as in RunSpec."""
    from criu_agent.ops import agents

    state = agents.state(command, env, user)
    for failed in state.failed:
        show.line(f"warning: cannot make {failed}: what the agent keeps there stays in the run")
    _require_apart(context, list(state.found), hint="--no-agent-state leaves it in the run")
    return dict(state.found)


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, (list, tuple)) else []


def _captured(values: Sequence[str]) -> tuple[str, ...]:
    found = tuple(os.path.realpath(value) for value in values)
    for path in found:
        if not Path(path).exists() or path == "/":
            why = "does not exist" if path != "/" else "is everything"
            raise Usage(f"--capture {path}: it {why}", hint="name files of the host that the run is going to read")
    return found


def _globs(values: Sequence[str]) -> tuple[str, ...]:
    for value in values:
        if not value.strip("/") or "\0" in value or value.startswith("./") or ".." in value.split("/"):
            raise Usage(f"{value!r} is no glob of --exclude", hint="give a name, '*.log', or a path, 'build/*'")
    return tuple(values)


def _stem(program: str) -> str:
    stem = "".join(c for c in Path(program).name if c.isalnum() or c in "._-").lstrip("._-")
    return stem[:40] or "run"


def _require_apart(context: Context, paths: Sequence[str], *, hint: str = "") -> None:
    """What is written through must not contain our own state: the run would write into its own upper layer."""
    ours = [str(context.config.state_dir), *context.config.local_repository]
    for path in paths:
        if not Path(path).exists():
            raise Usage(f"{path} does not exist", hint="make it first, or leave it out of --workdir and --through")
        for own in ours:
            if path != "/" and (own + "/").startswith(path.rstrip("/") + "/"):
                raise Usage(
                    f"{path} holds criu-agent's own files in {own}",
                    hint=hint or "use another --workdir, --repo or CRIU_AGENT_STATE_DIR",
                )


def _kept_to(level: str | None, environment: dict[str, str]) -> dict[str, str]:
    """The environment of a run that is kept to a level of processors."""
    if not level:
        return environment
    lacking = cpu.missing(os.uname().machine, cpu_baseline.LEVELS[level], cpu.read().flags)
    if lacking:
        raise HostCannot(
            f"this host is no {level} itself: its processor lacks {' '.join(lacking)}",
            hint="give a lower level to --cpu-baseline, or none",
        )
    try:
        return environment | cpu_baseline.environment(level, environment)
    except ValueError as error:
        raise Usage(
            f"--cpu-baseline sets {error}, which is set for the same already", hint=f"unset {error}, or leave it out"
        ) from error


def _user(value: object) -> User:
    try:
        return users.find(str(value))
    except LookupError as error:
        raise Usage(f"there is no user or group {error}", hint="give names or numbers: USER or USER:GROUP") from error


def _forget(context: Context, run_id: str) -> None:
    """A run that never came up leaves nothing."""
    run = runs.by_id(context.config, run_id)
    if run is not None and not run.alive:
        runs.remove(run)


@verb("exec", gives_code=True, context_settings=_LITERAL)
@click.argument("run")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal (the default in a terminal)")
@click.option("-i", "--interactive", is_flag=True, help="Accepted for docker's sake: input is always passed on")
@click.option("-w", "--workdir", help="Working directory in the box; the run's by default")
@click.option("-e", "--env", multiple=True, metavar="K[=V]", help="Set a variable in the environment")
@click.option("-u", "--user", metavar="USER[:GROUP]", help="User of the command; the run's by default")
@click.option("--detach-keys", default=terminal.DETACH_KEYS, show_default=True, help="Keys that detach the terminal")
@click.pass_obj
def exec_verb(context: Context, /, run: str, command: tuple[str, ...], **options: object) -> int:
    """Run one more COMMAND in the box of RUN.

    It is a guest: it sees what the run sees, is not part of its snapshots, and ends with it.

    Exit codes: the command's own, 125 when criu-agent failed, 126 and 127 when COMMAND cannot be run.
    """
    command = command[1:] if command[0] == "--" else command  # click leaves it behind a first argument
    if not command:
        raise Usage("there is no command to run", hint="criu-agent exec RUN COMMAND...")
    found = require_alive(runs.find(context.config, run))
    with_terminal = bool(options["tty"]) or terminal.is_terminal()
    if with_terminal and not os.isatty(0):
        raise Usage("--tty needs a terminal on standard input", hint="leave --tty out")
    rows, columns = terminal.window() if with_terminal else (24, 80)
    user = _user(options["user"]) if options["user"] else None
    with Client(found.socket) as client:
        client.send(
            verb="exec",
            argv=command,
            terminal=with_terminal,
            workdir=options["workdir"],
            env={**(user.environment if user else {}), **pairs(_texts(options["env"]), inherit=True)},
            user=user.numbers if user else None,
            rows=rows,
            columns=columns,
        )
        keys = terminal.parse_detach_keys(str(options["detach_keys"]))
        ended = terminal.follow(client, detach_keys=keys)
    if ended.exit_code is None and ended.reason == "interrupted":
        raise Interrupted(f"interrupted; {command[0]} goes on in {found.spec.name}")
    return ended.exit_code if ended.exit_code is not None else 128 + signals.SIGHUP
