"""What changed among the processes of two snapshots, and in the environments that they were started with.

Processes are the same by their pid, which a restore keeps.
"""

import shlex
from collections.abc import Iterator, Mapping

from criu_agent.criu.description import Description, Process
from criu_agent.ops.rows import Change, Row, alive, changes, command, common, name

_Sides = tuple[Change, Description, Description]


def processes(before: Description, after: Description) -> Iterator[Row]:
    sides: tuple[_Sides, _Sides] = (("-", before, after), ("+", after, before))
    for change, side, other in sides:
        for pid in sorted(side.processes.keys() - other.processes.keys()):
            one = side.processes[pid]
            said = command(one.program.argv) if one.program else one.state
            yield Row(section="processes", change=change, what=name(one), detail=f"child of {one.ppid}: {said}")
    for old, new in common(before, after):
        if detail := _changed(old, new):
            yield Row(section="processes", change="~", what=name(new), detail=detail)


def environment(before: Description, after: Description, *, values: bool) -> Iterator[Row]:
    """Variables as the program was started with them. Their values may be secret: they are told if `values`."""
    for old, new in alive(before, after):
        olds, news = _variables(old), _variables(new)
        for variable in sorted(olds.keys() | news.keys()):
            was, now = olds.get(variable), news.get(variable)
            if was == now:
                continue
            change: Change = "+" if was is None else "-" if now is None else "~"
            told = [" ".join(value) for value in (was, now) if value is not None]
            detail = " -> ".join(told) if values else "another value" if change == "~" else ""
            yield Row(section="environment", change=change, what=f"{name(new)} {variable}", detail=detail)


def _changed(old: Process, new: Process) -> str:
    found: dict[str, tuple[object, object]] = {
        "name": (old.comm, new.comm),
        "state": (old.state, new.state),
        "parent": (old.ppid, new.ppid),
        "group": (old.pgid, new.pgid),
        "session": (old.sid, new.sid),
    }
    if old.program and new.program:  # a zombie has none of these
        found |= {
            "threads": (old.threads, new.threads),
            "user": (f"{old.uid}:{old.gid}", f"{new.uid}:{new.gid}"),
            "directory": (old.cwd, new.cwd),
            "root": (old.root, new.root),
            "program": (old.program.exe, new.program.exe),
            "command": (shlex.join(old.program.argv), shlex.join(new.program.argv)),
        }
    return changes(found)


def _variables(process: Process) -> Mapping[str, tuple[str, ...]]:
    """The values of each variable: a program can be given one twice."""
    found: dict[str, tuple[str, ...]] = {}
    for text in process.program.environment if process.program else ():
        variable, _, value = text.partition("=")
        found[variable] = (*found.get(variable, ()), value)
    return found
