"""The object `config`: that this store is a repository, which one, and what the store can do (docs/format.md)."""

import secrets
from dataclasses import dataclass

from blake3 import blake3

from criu_agent.errors import Corrupt, NotFound
from criu_agent.repo.fields import Fields
from criu_agent.store.base import Store
from criu_agent.store.document import behind_version_line, from_json, to_json, version_line

VERSION = 2
NAME = "config"
_LIMIT = 1 << 16
_WHAT = "config of the repository"
CONTENTS = ("snapshots/", "heads/", "packs/", "tags/", "locks/")  # what is of no use without keys


@dataclass(frozen=True, kw_only=True)
class Header:
    """id: 32 hex digits, random. conditional: the store can put on a condition, so several hosts may share it."""

    id: str
    created: str
    conditional: bool


def read(store: Store) -> Header:
    """NotFound in an empty store, Corrupt if it is damaged or lost, HostCannot for a version that is not ours."""
    try:
        data = store.get(NAME, _LIMIT)
    except NotFound as error:
        if any(store.list(prefix) for prefix in ("keys/", *CONTENTS)):
            raise Corrupt(f"{_WHAT} is missing", hint="bring it back from a copy") from error
        raise
    return _decode(data)


def write(store: Store, *, created: str, conditional: bool) -> Header:
    """Make it, or take that of whoever was quicker."""
    header = Header(id=secrets.token_hex(16), created=created, conditional=conditional)
    store.put(NAME, _encode(header))
    return _decode(store.get(NAME, _LIMIT))


def _encode(header: Header) -> bytes:
    document = {"conditional": header.conditional, "created": header.created, "id": header.id}
    body = version_line("repository", VERSION) + to_json(document) + b"\n"
    return body + blake3(body).hexdigest().encode() + b"\n"


def _decode(data: bytes) -> Header:
    body, checksum = data[:-65], data[-65:]
    if blake3(body).hexdigest().encode() + b"\n" != checksum:
        raise Corrupt(f"{_WHAT} is changed or truncated", hint="bring it back from a copy")
    fields = Fields(from_json(behind_version_line(body, "repository", VERSION, _WHAT), _WHAT), _WHAT)
    return Header(id=fields.hex_id("id"), created=fields.time("created"), conditional=fields.flag("conditional"))
