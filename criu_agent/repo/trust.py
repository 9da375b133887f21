"""Which signers this host takes for genuine: `allowed_signers` in the state directory (docs/format.md C9)."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from criu_agent.errors import Usage
from criu_agent.linux import files
from criu_agent.repo import hostfile

_LINE = re.compile(r"(\*|[0-9a-f]{32})[ \t]+(!?)([0-9a-f]{64})(?:[ \t].*)?")
_LIMIT = 1 << 20  # bytes of the file


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Public keys of 32 bytes. A revoked one is never trusted, whatever else says that it is."""

    signers: frozenset[bytes]
    revoked: frozenset[bytes]

    def and_signers(self, more: Collection[bytes]) -> "Trust":
        """The same, trusting those of a key file, too."""
        return Trust(signers=self.signers | frozenset(more), revoked=self.revoked)


NOBODY = Trust(signers=frozenset(), revoked=frozenset())


def read(path: Path, repository_id: str, *, owners: Collection[int] = hostfile.ROOT) -> Trust:
    """What the file says about that repository; nobody is trusted if there is no such file.

    Failure if others than root (and `owners`) could have written it; Usage for a line that cannot be understood.
    """
    signers: set[bytes] = set()
    revoked: set[bytes] = set()
    for repository, revoking, signer in _lines(path, hostfile.read_unwritable(path, _LIMIT, owners=owners) or b""):
        if repository in ("*", repository_id):
            (revoked if revoking else signers).add(signer)
    return Trust(signers=frozenset(signers), revoked=frozenset(revoked))


def add(
    path: Path,
    repository_id: str,
    signer: bytes,
    comment: str,
    *,
    revoke: bool = False,
    owners: Collection[int] = hostfile.ROOT,
) -> None:
    """Append a line, in one step; one that is there already is not repeated. Failure as in `read`."""
    if not comment.isprintable():
        raise Usage("a comment is one line of text")
    try:
        with files.locked(path.parent):  # two that append at once must not lose a line
            old = hostfile.read_unwritable(path, _LIMIT, owners=owners) or b""
            if (repository_id, revoke, signer) in _lines(path, old):
                return
            separator = b"\n" if old and not old.endswith(b"\n") else b""
            line = f"{repository_id} {'!' if revoke else ''}{signer.hex()} {comment}".rstrip() + "\n"
            hostfile.replace(path, old + separator + line.encode(), 0o644)
    except OSError as error:
        raise hostfile.not_written(path, error) from error


def _lines(path: Path, data: bytes) -> list[tuple[str, bool, bytes]]:
    """(repository or *, is it revoked, signer) of each line."""
    found = []
    for number, line in enumerate(data.decode(errors="replace").split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.rstrip())
        if not match:
            raise Usage(
                f"{path}, line {number}: not understood",
                hint="a line is `REPOSITORY-ID SIGNER comment`; the id may be *, the signer has 64 hex digits",
            )
        found.append((match[1], bool(match[2]), bytes.fromhex(match[3])))
    return found
