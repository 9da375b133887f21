"""Kinds of options that several verbs take."""

from collections.abc import Mapping
from typing import Any

from criu_agent import durations
from criu_agent.errors import Usage


def duration(option: str, value: str | None) -> float | None:
    """The seconds of an option such as --every 5m; None if it was not given. Usage names the option."""
    if value is None:
        return None
    try:
        return durations.parse(value)
    except Usage as error:
        raise Usage(f"{option}: {error.message}", hint=error.hint) from error


def files_choice(options: Mapping[str, Any]) -> str:
    """What --theirs and --ours say of files that have changed here: refuse, theirs or ours."""
    if options["theirs"] and options["ours"]:
        raise Usage("--theirs and --ours are opposites", hint="--theirs: the snapshot's files; --ours: those here")
    return "theirs" if options["theirs"] else "ours" if options["ours"] else "refuse"
