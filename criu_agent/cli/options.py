"""Kinds of options that several verbs take."""

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
