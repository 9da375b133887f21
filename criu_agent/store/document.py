"""The version line and the strict JSON that stored documents are made of (docs/format.md sections 1 and 3)."""

import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from criu_agent.errors import Corrupt, HostCannot

_VERSION_LINE = re.compile(rb"criu-agent ([a-z]{1,20}) ([1-9][0-9]{0,8})\n")


def version_line(kind: str, version: int) -> bytes:
    return f"criu-agent {kind} {version}\n".encode()


def behind_version_line(data: bytes, kind: str, version: int, what: str) -> bytes:
    """What follows the first line, once that line names `kind` and `version` (docs/format.md section 3).

    Corrupt for a line of another shape, HostCannot for another version; `what` names the object in both.
    """
    return split_version_line(data, kind, (version,), what)[1]


def split_version_line(data: bytes, kind: str, versions: Sequence[int], what: str) -> tuple[int, bytes]:
    """As `behind_version_line`, for what may have one of several versions, the newest last: it, and what follows."""
    match = _VERSION_LINE.match(data)
    if not match or match[1] != kind.encode():
        raise Corrupt(f"{what} is changed: it does not begin as a {kind} does")
    version = int(match[2])
    if version not in versions:
        raise HostCannot(
            f"{what} has format {version}, this criu-agent reads up to {versions[-1]}",
            hint="upgrade criu-agent on this host",
        )
    return version, data[match.end() :]


def to_json(value: object) -> bytes:
    """Canonical JSON: one value, one sequence of bytes. ValueError for what JSON cannot say."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def from_json(data: bytes, what: str) -> Any:  # noqa: ANN401 - JSON is any of its types
    """Parse strictly: ASCII only, no NaN, no key twice. Corrupt otherwise."""
    try:
        return json.loads(data.decode("ascii"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{what} is changed: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key is there twice")
    return document


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
