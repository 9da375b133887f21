"""What each process of a snapshot may do: recorded while it is frozen, and compared before a restored one runs.

CRIU restores what is in its images. That they say the same as the manifest, which is what the policy of the host is
asked about, is looked up in the kernel, once the tree is there and before any of it runs.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from criu_agent.errors import Corrupt, Failure
from criu_agent.linux import privileges, proc
from criu_agent.linux.privileges import SETS, Privileges
from criu_agent.linux.proc import Process
from criu_agent.repo.fields import Fields

# By the box's own pid: what its threads have, one value as a rule.
Recorded = Mapping[int, frozenset[Privileges]]
_ENDED = "ZX"  # such a process runs nothing any more
_BITS = 64
_HIGHEST_ID = (1 << 32) - 1
_GROUPS = 1 << 16  # NGROUPS_MAX


def of_tree(processes: Iterable[Process]) -> Recorded:
    """Of those that can still run. About 0.1 ms for each thread."""
    living = (one for one in processes if one.state not in _ENDED)
    found = {one.box_pid: privileges.of_threads(one.pid) for one in living}
    return {pid: values for pid, values in found.items() if values}


def saved(recorded: Recorded) -> list[dict[str, Any]]:
    """As JSON: each set of privileges once, with the pids that have it (docs/format.md)."""
    pids: dict[Privileges, list[int]] = {}
    for pid, values in sorted(recorded.items()):
        for value in values:
            pids.setdefault(value, []).append(pid)
    return [
        {
            "pids": having,
            "uids": list(value.uids),
            "gids": list(value.gids),
            "groups": list(value.groups),
            "capabilities": {name: f"{bits:x}" for name, bits in zip(SETS, value.capabilities, strict=True)},
            "no_new_privs": value.no_new_privs,
            "seccomp": value.seccomp,
        }
        for value, having in pids.items()
    ]


def read(documents: object) -> Recorded:
    """The inverse of `saved`. Corrupt for what it does not write."""
    found: dict[int, set[Privileges]] = {}
    if not isinstance(documents, list):
        raise Corrupt("the snapshot is changed: 'privileges' is no list")
    for document in documents:
        fields = Fields(document, "the privileges of the snapshot")
        value = _value(fields)
        for pid in _numbers(fields, "pids"):
            found.setdefault(pid, set()).add(value)
    return {pid: frozenset(values) for pid, values in found.items()}


def _value(fields: Fields) -> Privileges:
    sets = fields.mapping("capabilities", _bits)
    if set(sets) != set(SETS):
        raise Corrupt(f"{fields.what} are changed: the sets of capabilities are {sorted(sets)}")
    return Privileges(
        uids=_ids(fields, "uids"),
        gids=_ids(fields, "gids"),
        groups=_numbers(fields, "groups"),
        capabilities=tuple(sets[name] for name in SETS),
        no_new_privs=fields.flag("no_new_privs"),
        seccomp=fields.integer("seccomp"),
    )


def _bits(fields: Fields, key: str) -> int:
    text = fields.text(key)
    if not 0 < len(text) <= _BITS // 4 or not set(text) <= set("0123456789abcdef"):
        raise Corrupt(f"{fields.what} is changed: {key!r} is no set of capabilities")
    return int(text, 16)


def _ids(fields: Fields, key: str) -> tuple[int, ...]:
    found = _numbers(fields, key)
    if len(found) != 4:
        raise Corrupt(f"{fields.what} are changed: {key!r} are not four numbers")
    return found


def _numbers(fields: Fields, key: str) -> tuple[int, ...]:
    values = fields.any(key)
    good = isinstance(values, list) and len(values) <= _GROUPS
    if not good or not all(type(one) is int and 0 <= one <= _HIGHEST_ID for one in values):
        raise Corrupt(f"{fields.what} are changed: {key!r} are no numbers")
    return tuple(values)


def compare(recorded: Recorded, root_pid: int) -> None:
    """Corrupt if a process of the restored tree may do anything else than the snapshot says, or is not in it."""
    try:
        processes = proc.tree(root_pid)
    except ProcessLookupError as error:
        raise Failure("the run was killed while it was restored", agent_state="not running") from error
    programs = {one.box_pid: one.comm for one in processes}
    wrong = list(differences(recorded, of_tree(processes)))
    if wrong:
        pid, what = wrong[0]
        more = f", and {len(wrong) - 1} more processes differ" if len(wrong) > 1 else ""
        raise Corrupt(
            f"process {pid} ({programs.get(pid, '?')}) was restored with other privileges than the snapshot says: "
            f"{what}{more}",
            hint="restore another snapshot; this one's images and manifest do not belong together",
            agent_state="not running",
        )


def differences(recorded: Recorded, restored: Recorded) -> Iterator[tuple[int, str]]:
    """The pids of processes that differ, and in what."""
    for pid in sorted({*recorded, *restored}):
        then, now = recorded.get(pid, frozenset()), restored.get(pid, frozenset())
        if then == now:
            continue
        if not then or not now:
            yield pid, "it is not in the snapshot's record" if now else "it is missing"
        elif now - then:
            yield pid, describe(min(then, key=repr), min(now - then, key=repr))
        else:
            yield pid, f"{len(then - now)} of its threads' privileges are missing"


def describe(then: Privileges, now: Privileges) -> str:
    """Where `now` is not as `then`: "uids 0 0 0 0 instead of 1 1 1 1, effective capabilities +CAP_KILL"."""
    return ", ".join([*_numbers_that_differ(then, now), *_capabilities_that_differ(then, now)])


def _numbers_that_differ(then: Privileges, now: Privileges) -> Iterator[str]:
    rows = [
        ("uids", then.uids, now.uids),
        ("gids", then.gids, now.gids),
        ("groups", then.groups, now.groups),
        ("no_new_privs", (int(then.no_new_privs),), (int(now.no_new_privs),)),
        ("seccomp mode", (then.seccomp,), (now.seccomp,)),
    ]
    for name, before, after in rows:
        if before != after:
            yield f"{name} {_text(after)} instead of {_text(before)}"


def _text(numbers: tuple[int, ...]) -> str:
    return " ".join(map(str, numbers)) or "none"


def _capabilities_that_differ(then: Privileges, now: Privileges) -> Iterator[str]:
    for name, before, after in zip(SETS, then.capabilities, now.capabilities, strict=True):
        changes = [f"+{one}" for one in privileges.names(after & ~before)]
        changes += [f"-{one}" for one in privileges.names(before & ~after)]
        if changes:
            yield f"{name} capabilities {' '.join(changes)}"
