"""The command: a group whose verbs are loaded when they are used, and the way errors are shown.

`--help` reads the table below only; `ps` imports click and little else. INTERFACE section 2 has the groups.
"""

import importlib
import itertools
import json
import os
import sys

import click

from criu_agent.cli import show
from criu_agent.cli.context import Context, options
from criu_agent.errors import Failure, Interrupted

# verb: (module in criu_agent.cli, what it does); the order is the order of --help
_VERBS: dict[str, dict[str, tuple[str, str]]] = {
    "Runs": {
        "run": ("run", "start a command as a run"),
        "ps": ("runs", "list the runs of this host"),
        "attach": ("attach", "attach the terminal to a run"),
        "logs": ("runs", "show what a run printed"),
        "exec": ("run", "run one more command in the box of a run"),
        "wait": ("runs", "wait until a run ends"),
        "stop": ("runs", "end runs: TERM, and KILL after a while"),
        "kill": ("runs", "send a signal to runs"),
        "rm": ("runs", "forget runs; their snapshots stay"),
        "inspect": ("runs", "show everything that is known of a run"),
    },
    "State": {
        "checkpoint": ("state", "take a snapshot; the run goes on"),
        "suspend": ("state", "take a snapshot and stop the run there"),
        "restore": ("state", "bring a run back from a snapshot"),
        "resume": ("state", "the same as restore"),
        "migrate": ("migrate", "move a run to another host, over ssh"),
        "merge": ("layer", "carry what a run wrote in its layer to the host"),
        "plan": ("state", "what a checkpoint would do, without taking it"),
    },
    "Store": {
        "init": ("keys", "make a repository and its key"),
        "snapshots": ("snapshots", "list snapshots"),
        "ls": ("contents", "list the files in a snapshot"),
        "dump": ("contents", "write a file of a snapshot to standard output"),
        "diff": ("contents", "show what a run changed on the host, or what changed between two snapshots"),
        "tag": ("store", "change the tags of snapshots"),
        "copy": ("store", "copy snapshots into another repository"),
        "forget": ("store", "delete snapshots, by rules or by name"),
        "prune": ("store", "delete the data that no snapshot needs"),
        "check": ("store", "check that nothing is missing or damaged"),
        "stats": ("store", "show how much the snapshots of each run take"),
        "unlock": ("store", "take away locks that dead processes left"),
        "key": ("keys", "who can open the repository: list, add, remove, rotate, trust"),
        "export": ("store", "write a snapshot into one file"),
        "import": ("store", "bring an exported snapshot into the repository"),
    },
    "Host": {
        "doctor": ("host", "check whether this host can do it"),
        "version": ("host", "show versions"),
        "completion": ("host", "print the completion script of a shell"),
    },
}
_MODULES = {verb: module for group in _VERBS.values() for verb, (module, _) in group.items()}


class Verbs(click.Group):
    """Finds a verb by importing the one module that has it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULES:
            return None
        module = importlib.import_module(f"criu_agent.cli.{_MODULES[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name}_verb")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, verbs in _VERBS.items():
            with formatter.section(title):
                formatter.write_dl([(verb, text) for verb, (_, text) in verbs.items()])
        with formatter.section("Exit codes"):
            formatter.write_text(
                "0 done, 1 failed, 2 usage, 10 not found, 12 wrong key, 13 files here have changed, 14 corrupt, "
                "15 this host cannot, 16 cannot be checkpointed now, 75 suspended; "
                "run, exec, attach and wait give the command's own code."
            )


def _cli() -> Verbs:
    return Verbs(
        "criu-agent",
        params=list[click.Parameter](options()),
        help="Checkpoint, suspend and restore a live agent with its whole process tree.\n\n"
        "`criu-agent run -- CMD` starts an agent; `criu-agent suspend` and `criu-agent resume` take it away and "
        "bring it back, in the middle of what it was doing.",
        context_settings={"help_option_names": ["-h", "--help"]},
        no_args_is_help=True,
        callback=lambda **params: click.get_current_context().obj.take(params),
    )


def run_cli(arguments: list[str]) -> int:
    """Run the command line; its exit code. What is not one of our errors shows its traceback."""
    _open_standard_streams()
    context = Context()
    try:
        result = _cli().main(arguments, prog_name="criu-agent", standalone_mode=False, obj=context)
    except Failure as error:
        return _fail(error, as_json=context.options.json)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.ClickException as error:
        # The options behind the wrong one were not read any more.
        wants_json = "--json" in itertools.takewhile(lambda word: word != "--", arguments)
        return _fail(_usage(error), as_json=context.options.json or wants_json)
    except (click.Abort, KeyboardInterrupt):
        return _fail(Interrupted("interrupted"), as_json=context.options.json)
    return result if isinstance(result, int) else 0


def _open_standard_streams() -> None:
    """Where the caller closed one (`<&-`), put /dev/null, before something else gets its number."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        continue
    os.close(fd)
    # Python sets them to None then.
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _usage(error: click.ClickException) -> Failure:
    from criu_agent.errors import Usage

    path = getattr(getattr(error, "ctx", None), "command_path", "criu-agent")
    message = error.format_message()
    return Usage(message[:1].lower() + message[1:].rstrip("."), hint=f"{path} --help")  # in the way of ours


def _fail(error: Failure, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps(error.to_json()), file=sys.stderr)
    else:
        state = f" (the agent: {error.agent_state})" if error.agent_state else ""
        show.line(f"criu-agent: {error.message}{state}", error=True)
        if error.hint:
            show.line(f"hint: {error.hint}")
    return error.exit_code
