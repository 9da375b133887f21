"""The verbs about this host: doctor, version, completion."""

import dataclasses
import platform

import click

import criu_agent
from criu_agent.cli import show
from criu_agent.cli.context import Context, verb
from criu_agent.errors import HostCannot


@verb("doctor", needs_root=False)
@click.pass_obj
def doctor_verb(context: Context, /) -> None:
    """Check whether this host can checkpoint and restore, one line for each requirement.

    Exit codes: 0 it can, 15 it cannot; what is missing and the fix are said.
    """
    from criu_agent.ops import doctor

    config = context.config
    findings = doctor.examine(
        criu=config.criu, init=config.init, state_dir=config.state_dir, runtime_dir=config.runtime_dir
    )
    if context.options.json:
        show.document([dataclasses.asdict(finding) for finding in findings])
    else:
        show.table(
            ("STATE", "REQUIREMENT", "DETAIL"),
            [(finding.state, finding.requirement, finding.detail) for finding in findings],
            color=context.color,
        )
        for finding in findings:
            if finding.fix and finding.state != "ok":
                show.line(f"fix for {finding.requirement}: {finding.fix}")
    if not doctor.verdict(findings):
        missing = [f.requirement for f in findings if f.vital and f.state == "missing"]
        raise HostCannot(f"this host cannot: {', '.join(missing)}", hint="the fixes are listed above")


@verb("version", needs_root=False)
@click.pass_obj
def version_verb(context: Context, /) -> None:
    """Show the versions of criu-agent, CRIU, Python and the kernel."""
    from criu_agent.ops import host

    try:
        criu = host.criu_version(context.config)
    except HostCannot as error:
        criu = f"none ({error.message})"
    versions = {
        "criu-agent": criu_agent.__version__,
        "criu": criu,
        "python": platform.python_version(),
        "kernel": platform.release(),
    }
    if context.options.json:
        show.document(versions)
    else:
        for name, version in versions.items():
            show.result(f"{name} {version}")


@verb("completion", needs_root=False)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_obj
def completion_verb(context: Context, /, shell: str) -> None:
    """Print the completion script of SHELL: `source <(criu-agent completion bash)`."""
    from click.shell_completion import get_completion_class

    root = click.get_current_context().find_root()
    found = get_completion_class(shell)
    if found is None:
        raise HostCannot(f"click knows no completion for {shell}")
    for line in found(root.command, {}, "criu-agent", "_CRIU_AGENT_COMPLETE").source().splitlines():
        show.result(line)
