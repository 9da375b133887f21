"""What snapshots may bring onto this host: `/etc/criu-agent/policy.toml`, looked at before anything is made.

Whoever has the key of a repository can sign a snapshot of whatever processes. What may run here is for this host to
say (docs/limits.md has the keys). Without the file nothing is limited.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path
from typing import Any

from criu_agent.errors import Failure, HostCannot
from criu_agent.linux import privileges
from criu_agent.linux.privileges import CAPABILITIES, Privileges
from criu_agent.ops.privileges import Recorded
from criu_agent.repo import hostfile

_LIMIT = 1 << 20
_HIGHEST_ID = (1 << 32) - 1
_NOT_RUNNING = "not running"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """None: not limited. capabilities: bits. mounts and devices: paths, each with what is below it."""

    path: Path
    uids: tuple[range, ...] | None = None
    gids: tuple[range, ...] | None = None
    capabilities: int | None = None
    no_new_privs: bool = False  # it is required
    mounts: tuple[str, ...] | None = None
    devices: tuple[str, ...] | None = None

    @property
    def limits_processes(self) -> bool:
        return self.no_new_privs or (self.uids, self.gids, self.capabilities) != (None, None, None)


def read(path: Path) -> Policy:
    """HostCannot for a file that others can write, or that cannot be understood: then nothing is restored at all."""
    try:
        data = hostfile.read_unwritable(path, _LIMIT)
    except Failure as error:
        raise HostCannot(error.message, hint=error.hint, agent_state=_NOT_RUNNING) from error
    if data is None:
        return Policy(path=path)
    import tomllib  # not before it is needed: few hosts have such a file

    try:
        return _policy(path, tomllib.loads(data.decode()))
    except ValueError as error:  # of UTF-8, of TOML, or of ours
        raise HostCannot(
            f"cannot understand {path}: {error}", hint="docs/limits.md has its keys", agent_state=_NOT_RUNNING
        ) from error


def _policy(path: Path, settings: Mapping[str, Any]) -> Policy:
    readers = {
        "uids": _ranges,
        "gids": _ranges,
        "capabilities": _capabilities,
        "no_new_privs": _flag,
        "mounts": _paths,
        "devices": _paths,
    }
    unknown = sorted(set(settings) - set(readers))
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}, known are {', '.join(readers)}")
    values: dict[str, Any] = {key: readers[key](key, value) for key, value in settings.items()}
    return Policy(path=path, **values)


def _flag(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{key} is not true or false")
    return value


def _list(key: str, value: object) -> list[object]:
    if not isinstance(value, list):
        raise ValueError(f"{key} is no list")
    return value


def _ranges(key: str, value: object) -> tuple[range, ...]:
    """Of numbers and "FIRST-LAST"."""
    return tuple(_range(key, one) for one in _list(key, value))


def _range(key: str, one: object) -> range:
    first, dash, last = str(one).partition("-")
    numbers = (first, last) if dash else (first, first)
    if isinstance(one, bool) or not all(part.isascii() and part.isdigit() for part in numbers):
        raise ValueError(f'{key} has {one!r}, which is no number and no "FIRST-LAST"')
    low, high = map(int, numbers)
    if not low <= high <= _HIGHEST_ID:
        raise ValueError(f"{key} has {one!r}, which holds no number up to {_HIGHEST_ID}")
    return range(low, high + 1)


def _capabilities(key: str, value: object) -> int:
    bits = 0
    for one in _list(key, value):
        if one not in CAPABILITIES:
            raise ValueError(f"{key} has {one!r}, which is no capability (CAP_KILL is one)")
        bits |= 1 << CAPABILITIES.index(str(one))
    return bits


def _paths(key: str, value: object) -> tuple[str, ...]:
    found = _list(key, value)
    for one in found:
        if not isinstance(one, str) or not one.startswith("/") or normpath(one) != one:
            raise ValueError(f"{key} has {one!r}, which is no path from the root")
    return tuple(map(str, found))


def require_allowed(
    policy: Policy, *, recorded: Recorded | None, through: Iterable[str], devices: Iterable[str]
) -> None:
    """HostCannot, with all that this host does not allow of a snapshot.

    recorded is None where the snapshot does not say it; through: what is written through to; devices: by their paths.
    """
    if recorded is None and policy.limits_processes:
        denied = ["the snapshot does not say what its processes may do"]
    else:
        denied = [*_of_processes(policy, recorded or {}), *_of_paths(policy, through, devices)]
    if denied:
        raise HostCannot(
            f"the policy of this host does not allow this snapshot: {'; '.join(denied)}",
            hint=f"{policy.path} says what is allowed",
            agent_state=_NOT_RUNNING,
        )


def _of_processes(policy: Policy, recorded: Recorded) -> Iterator[str]:
    """Each thing that is too much once, with the processes that have it."""
    found: dict[str, set[int]] = {}
    for pid, values in recorded.items():
        for value in values:
            for what in _too_much(policy, value):
                found.setdefault(what, set()).add(pid)
    for what, pids in sorted(found.items()):
        first, *others = sorted(pids)
        yield f"{what} (process {first}{f' and {len(others)} more' if others else ''})"


def _too_much(policy: Policy, value: Privileges) -> Iterator[str]:
    yield from (f"uid {uid}" for uid in _outside(policy.uids, value.uids))
    yield from (f"gid {gid}" for gid in _outside(policy.gids, (*value.gids, *value.groups)))
    if policy.capabilities is not None:
        yield from privileges.names(value.within_reach & ~policy.capabilities)
    if policy.no_new_privs and not value.no_new_privs:
        yield "no no_new_privs"


def _outside(allowed: tuple[range, ...] | None, numbers: Iterable[int]) -> set[int]:
    if allowed is None:
        return set()
    return {number for number in numbers if not any(number in one for one in allowed)}


def _of_paths(policy: Policy, through: Iterable[str], devices: Iterable[str]) -> Iterator[str]:
    for what, allowed, paths in (("writing to", policy.mounts, through), ("the device", policy.devices, devices)):
        if allowed is not None:
            yield from (f"{what} {path}" for path in sorted(set(paths)) if not _within(path, allowed))


def _within(path: str, allowed: Iterable[str]) -> bool:
    return any(path == one or path.startswith(one.rstrip("/") + "/") for one in allowed)
