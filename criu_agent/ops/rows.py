"""One difference between two snapshots, and how its parts are said."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from criu_agent.criu.description import Description, Process

Change = Literal["+", "-", "~"]
SECTIONS = ("processes", "descriptors", "connections", "environment", "files", "memory")
_COMMAND_LIMIT = 120  # characters of a command that are shown


@dataclass(frozen=True, kw_only=True)
class Row:
    """section is one of SECTIONS; change: "+" only in the second snapshot, "-" only in the first, "~" it differs."""

    section: str
    change: Change
    what: str  # "pid 7 (sh) fd 3", "/root/file", ...
    detail: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def name(process: Process) -> str:
    return f"pid {process.pid} ({process.comm})"


def command(argv: tuple[str, ...]) -> str:
    """The arguments as a shell would take them, the first of them if they are many."""
    text = shlex.join(argv)
    return text if len(text) <= _COMMAND_LIMIT else f"{text[:_COMMAND_LIMIT]}…"


def common(before: Description, after: Description) -> Iterator[tuple[Process, Process]]:
    """The processes that are in both, by pid."""
    for pid in sorted(before.processes.keys() & after.processes.keys()):
        yield before.processes[pid], after.processes[pid]


def alive(before: Description, after: Description) -> Iterator[tuple[Process, Process]]:
    """Those of them that are no zombie in either, which has nothing any more."""
    return (pair for pair in common(before, after) if all(one.program for one in pair))


def changes(pairs: Mapping[str, tuple[object, object]]) -> str:
    """What differs among named pairs: "cwd / -> /root, uid 0 -> 1000"; "" if nothing does."""
    return ", ".join(f"{what} {old} -> {new}" for what, (old, new) in pairs.items() if old != new)
