"""Who a command is to be: the users and groups of this host (man 5 passwd)."""

import grp
import pwd
from collections.abc import Mapping
from dataclasses import dataclass, field

_HIGHEST_ID = (1 << 32) - 2  # -1 means "as it is" to setuid


@dataclass(frozen=True, kw_only=True)
class User:
    """environment is what login(1) sets for it; of a number without a name, what is known: that it has no home."""

    uid: int
    gid: int
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def numbers(self) -> str:
        return f"{self.uid}:{self.gid}"


def find(text: str) -> User:
    """USER or USER:GROUP, names or numbers. LookupError, with the part that is unknown, for a name that nobody has.

    Without a group it is the user's own one; a number without a name has the group of that number.
    """
    name, colon, group = text.partition(":")
    entry = _entry(name)
    uid = entry.pw_uid if entry else _number(name)
    gid = _group(group) if colon else entry.pw_gid if entry else uid
    return User(uid=uid, gid=gid, environment=_environment(entry))


def _entry(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        pass
    try:
        return pwd.getpwuid(_number(name))
    except KeyError:
        return None


def _group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return _number(name)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > _HIGHEST_ID:
        raise LookupError(text)
    return int(text)


def _environment(entry: pwd.struct_passwd | None) -> dict[str, str]:
    if entry is None:
        return {"HOME": "/"}
    return {
        "HOME": entry.pw_dir,
        "USER": entry.pw_name,
        "LOGNAME": entry.pw_name,
        "SHELL": entry.pw_shell or "/bin/sh",
    }
