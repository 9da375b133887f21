"""Why a dump or a restore failed, from CRIU's log: what is wrong, where, and what to do about it.

CRIU goes on printing errors after the one that matters, prints some that mean nothing, and on a restore the
lines of all processes are mixed. So the lines are ranked (`_cause`), the first of the best rank is translated
by the table of `known_errors`, and pid, fd and the part that a file plays are read from the lines around it.

A dump needs `-v3` for the fd (`PID fdinfo FD: ...` is printed there); the pid comes from the errors that
follow, at any level. A restore names its processes at any level; `-v4` adds the address of a socket.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from criu_agent.criu.known_errors import CONSEQUENCES, NOISE, TABLE, TRANSIENT, Kind, Known, Verb
from criu_agent.errors import Corrupt, Failure, HostCannot, Refused

_CONTEXT = 5  # lines shown before an error that is not in the table
_ABOVE = 200  # lines before an error in which a detail of it is looked for

# "(00.025) pie: 31: Error (criu/x.c:1): text"; the time is there from -v3 on, "31:" on a restore, "pie:" in
# lines of the code that CRIU runs inside the process, where the number is that of the process's own namespace.
_LINE = re.compile(
    r"^(?:\(\d+\.\d+\) ?)?(?P<pie>pie: )? *(?:(?P<pid>\d+): )?(?:Error \((?P<place>[^)]*)\): )?(?P<text>.*)$",
    re.MULTILINE,
)
_FOLLOWING_PID = re.compile(r"\(pid: (\d+)\)|Can't open (\d+)'s mapfile")
_FDINFO = re.compile(r"(?P<pid>\d+) fdinfo (?P<fd>\d+):")
_OPENED_FD = re.compile(r"Unable to open fd=(\d+) id=")
_ROLES = (
    (re.compile(r"Can't open cwd"), "the working directory of a process"),
    (re.compile(r"Can't open root"), "the root directory of a process"),
    (re.compile(r"Can't open vma"), "a program or library that is in use"),
    (_OPENED_FD, "an open file"),
)
_FAILURES: dict[Kind, type[Failure]] = {
    "tree": Refused,
    "resource": Refused,
    "host": HostCannot,
    "image": Corrupt,
    "unknown": Failure,
}


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What a log says. pid is the number in the log: of the host in a dump, of the box in a restore.

    line is the raw line that it was read from ("" when there is none), context the lines before it, only for
    an error that is not in the table.
    """

    what: str
    pid: int | None = None
    fd: int | None = None
    object: str = ""
    hint: str = ""
    line: str = ""
    context: tuple[str, ...] = ()
    known: bool = True
    kind: Kind = "unknown"


@dataclass(frozen=True, kw_only=True)
class _Line:
    raw: str
    is_error: bool
    pid: int | None  # as printed in front of the text
    inside: bool  # printed by CRIU's code inside the process
    text: str


def _parse(log: str) -> list[_Line]:
    return [
        _Line(
            raw=parts[0],
            is_error=parts["place"] is not None,
            pid=int(parts["pid"]) if parts["pid"] else None,
            inside=parts["pie"] is not None,
            text=parts["text"],
        )
        for parts in _LINE.finditer(log.removesuffix("\n"))
    ]


def _is_one_of(line: _Line, patterns: Sequence[re.Pattern[str]]) -> bool:
    return any(pattern.search(line.text) for pattern in patterns)


def _cause(lines: Sequence[_Line]) -> int | None:
    """The index of the error that the others follow from; None if there is no error at all."""
    errors = [n for n, line in enumerate(lines) if line.is_error and not _is_one_of(line, NOISE)]
    causes = [n for n in errors if not _is_one_of(lines[n], CONSEQUENCES)]
    lasting = [n for n in causes if not _is_one_of(lines[n], TRANSIENT)]
    return next(iter(lasting or causes or errors), None)


def first_error(log: str) -> str | None:
    """The raw line of the error that the others follow from; None if the log has no error."""
    lines = _parse(log)
    cause = _cause(lines)
    return None if cause is None else lines[cause].raw


def explain(log: str, *, verb: Verb) -> Explanation:
    """What the log of a failed `verb` says about the reason."""
    lines = _parse(log)
    cause = _cause(lines)
    if cause is None:
        return _without_error(log, lines, verb)
    for known in TABLE[verb]:
        found = known.pattern.search(lines[cause].text)
        above = _above(lines, cause, known.before)
        if found and (above or not known.needs_before):
            return _translated(known, _groups(found, above), lines, cause, verb)
    pid, fd = _whose(lines, cause, verb)
    return Explanation(
        what=f"CRIU failed with an error that criu-agent does not know: {lines[cause].text.strip()}",
        pid=pid,
        fd=fd,
        hint="look at the lines above it in the log of CRIU",
        line=lines[cause].raw,
        context=tuple(line.raw for line in lines[max(cause - _CONTEXT, 0) : cause]),
        known=False,
        kind="unknown",
    )


def _without_error(log: str, lines: Sequence[_Line], verb: Verb) -> Explanation:
    """A log without an error: cut off within a line when its file system is full, else CRIU was killed."""
    last = lines[-1].raw
    if log and not log.endswith("\n"):
        return Explanation(
            what="the log of CRIU breaks off: no space is left where it is written",
            hint="free space on that file system, then try again",
            line=last,
            kind="resource" if verb == "dump" else "host",
        )
    return Explanation(
        what="CRIU ended without saying why, as it does when it is killed",
        hint="dmesg shows whether the kernel killed it for lack of memory",
        line=last,
        context=tuple(line.raw for line in lines[-_CONTEXT - 1 : -1]),
        known=False,
        kind="unknown",
    )


def _above(lines: Sequence[_Line], cause: int, pattern: re.Pattern[str] | None) -> re.Match[str] | None:
    """The nearest match in the lines before the error, of the same process where the lines name one."""
    if pattern is None:
        return None
    near = lines[max(cause - _ABOVE, 0) : cause]
    matches = (pattern.search(line.text) for line in reversed(near) if line.pid == lines[cause].pid)
    return next((match for match in matches if match), None)


def _groups(*matches: re.Match[str] | None) -> dict[str, str]:
    """The groups that took part, those in hex as decimal numbers."""
    groups: dict[str, str] = {}
    for match in matches:
        for name, value in (match.groupdict() if match else {}).items():
            if value is not None and name.endswith("_hex"):
                groups[name.removesuffix("_hex")] = str(int(value, 16))
            elif value is not None:
                groups[name] = value
    return groups


def _translated(known: Known, groups: dict[str, str], lines: Sequence[_Line], cause: int, verb: Verb) -> Explanation:
    pid, fd = _whose(lines, cause, verb)
    groups.setdefault("role", _role(lines, cause))
    named_fd = int(groups.get("fd", -1))  # CRIU gives working directories and the like a negative fd
    return Explanation(
        what=_fill((known.what,), groups),
        pid=int(groups["pid"]) if "pid" in groups else pid,
        fd=named_fd if named_fd >= 0 else fd,
        object=_fill(known.object, groups).removesuffix(" (deleted)"),
        hint=_fill((known.hint,), groups),
        line=lines[cause].raw,
        kind=known.kind,
    )


def _fill(templates: Sequence[str], groups: dict[str, str]) -> str:
    """The first template whose fields are all known."""
    for template in templates:
        try:
            return template.format_map(groups)
        except KeyError:
            continue
    return ""


def _whose(lines: Sequence[_Line], cause: int, verb: Verb) -> tuple[int | None, int | None]:
    """pid and fd that the error is about, as far as the lines around it tell."""
    return _whose_dump(lines, cause) if verb == "dump" else _whose_restore(lines, cause)


def _whose_dump(lines: Sequence[_Line], cause: int) -> tuple[int | None, int | None]:
    """The errors that follow name the process; the fd is the one that CRIU had last begun with.

    Without a following error that names a process, the failure is of no single one (locks, ttys, space).
    """
    for follower in lines[cause:]:
        match = _FOLLOWING_PID.search(follower.text) if follower.is_error else None
        if match is None:
            continue
        pid = int(match[1] or match[2])
        if "Dump files" in follower.text and not lines[cause].inside:
            return pid, _last_fd(lines[:cause], pid)
        return pid, None
    return None, None


def _last_fd(lines: Sequence[_Line], pid: int) -> int | None:
    for line in reversed(lines):
        match = _FDINFO.match(line.text)
        if match:
            return int(match["fd"]) if int(match["pid"]) == pid else None
    return None


def _whose_restore(lines: Sequence[_Line], cause: int) -> tuple[int | None, int | None]:
    """The line itself names the process, and CRIU's complaint about the fd follows within the same process."""
    for follower in _same_process_after(lines, cause):
        match = _OPENED_FD.search(follower.text)
        if match:
            return lines[cause].pid, int(match[1])
    return lines[cause].pid, None


def _role(lines: Sequence[_Line], cause: int) -> str:
    """What the file of the error is to its process, from the errors that follow it."""
    for follower in _same_process_after(lines, cause):
        for pattern, role in _ROLES:
            if pattern.search(follower.text):
                return role
    return "a file of the run"


def _same_process_after(lines: Sequence[_Line], cause: int) -> list[_Line]:
    pid = lines[cause].pid
    return [line for line in lines[cause + 1 :] if line.is_error and line.pid == pid]


def as_failure(explanation: Explanation, *, agent_state: str) -> Failure:
    """The error for the user: what is wrong, with which thing of which process, and what to do."""
    message = explanation.what
    if explanation.object:
        message += f": {explanation.object}"
    numbers = {"pid": explanation.pid, "fd": explanation.fd}
    place = ", ".join(f"{name} {number}" for name, number in numbers.items() if number is not None)
    if place:
        message += f" ({place})"
    hint = explanation.hint
    if not explanation.known:
        hint = "\n".join([hint, *explanation.context, explanation.line])
    return _FAILURES[explanation.kind](message, hint=hint, agent_state=agent_state)
