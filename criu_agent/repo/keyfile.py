"""Key files: age identities, and the signers that come with them (docs/format.md C9). `age-keygen` makes some."""

import os
import re
import stat
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from criu_agent.errors import Failure, NotFound, Usage, WrongKey
from criu_agent.repo import hostfile, wrap
from criu_agent.repo.wrap import Identity

_LIMIT = 1 << 16
_SIGNER = re.compile(r"#[ \t]*signer:[ \t]*(.*?)[ \t]*")
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class KeyFile:
    identities: tuple[Identity, ...] = field(repr=False)
    signers: frozenset[bytes]


def make(path: Path, one: Identity, signer: bytes, *, created: str) -> None:
    """A key file (0600) with that identity; durable on return. Usage if there is a file already."""
    lines = [
        f"# created: {created}",
        f"# public key: {wrap.recipient_of(one)}",
        f"# signer: {signer.hex()}",
        str(one),
    ]
    try:
        hostfile.create(path, "".join(line + "\n" for line in lines).encode(), 0o600)
    except FileExistsError as error:
        raise Usage(f"{path} is there already", hint="use it with --key-file, or name another one") from error
    except OSError as error:
        raise hostfile.not_written(path, error) from error


def read(path: Path, *, owners: Collection[int] = ()) -> KeyFile:
    """The identities and signers in the file. NotFound if there is none.

    WrongKey if others can read or write it, or it belongs to somebody else than root, ourselves or `owners` (uids:
    who called through sudo). Symbolic links are followed: what counts is the file.
    """
    return parse(read_private(path, "key file", owners=owners), str(path))


def read_passphrase(path: Path, *, owners: Collection[int] = ()) -> bytes:
    """The first line of a file. Errors as in `read`."""
    return read_private(path, "passphrase file", owners=owners).split(b"\n")[0]


def read_private(path: Path, what: str, *, owners: Collection[int] = ()) -> bytes:
    """The content of a file that nobody else can read. Errors as in `read`; `what` names it in them."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"there is no {what} {path}", hint="name one that is there, with its whole path") from error
    except OSError as error:
        raise Failure(f"cannot read the {what} {path}: {error.strerror}") from error
    data = hostfile.read_checked(fd, lambda found: _check(path, found, {0, os.geteuid(), *owners}, what), _LIMIT)
    if len(data) > _LIMIT:
        raise WrongKey(f"{path} is no {what}: it has more than {_LIMIT} bytes")
    return data


def parse(data: bytes, what: str) -> KeyFile:
    """The identities and signers in a key file's content. WrongKey, which repeats no line of it."""
    identities: list[Identity] = []
    signers: set[bytes] = set()
    for number, line in enumerate(data.decode(errors="replace").splitlines(), 1):
        comment = _SIGNER.fullmatch(line)
        if comment and not _HEX.fullmatch(comment[1]):
            raise WrongKey(f"{what}, line {number}: a signer has 64 hex digits")
        if comment:
            signers.add(bytes.fromhex(comment[1]))
        elif line.strip() and not line.startswith("#"):
            identities.append(_identity(line.strip(), f"{what}, line {number}"))
    if not identities:
        raise WrongKey(f"{what} has no key", hint="a key is a line AGE-SECRET-KEY-1...; `age-keygen` makes one")
    return KeyFile(identities=tuple(identities), signers=frozenset(signers))


def _identity(line: str, where: str) -> Identity:
    try:
        return wrap.identity(line)
    except Usage as error:
        raise WrongKey(f"{where}: {error.message}", hint=error.hint) from error


def _check(path: Path, found: os.stat_result, owners: Collection[int], what: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise WrongKey(f"the {what} {path} is not a regular file")
    if found.st_uid not in owners:
        raise WrongKey(f"the {what} {path} belongs to uid {found.st_uid}", hint=f"chown root {path}")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise WrongKey(
            f"others can read or write the {what} {path}",
            hint=f"chmod 600 {path}; if somebody may have read it: `criu-agent key rotate`",
        )
