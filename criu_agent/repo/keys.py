"""`key add`, `list`, `remove`, and the first key of a repository (docs/format.md C8).

One of these at a time: the caller holds the register `locks/keys`. Times are the caller's (RFC 3339, UTC, "Z").
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from criu_agent.errors import Corrupt, Failure, HostCannot, NotFound, Usage
from criu_agent.repo import keyobject, keyring, wrap
from criu_agent.repo.keyobject import Details, KeyObject
from criu_agent.repo.keyring import PREFIX
from criu_agent.repo.secret import Secret, encode
from criu_agent.repo.trust import Trust
from criu_agent.store.base import Store

NO_SIGNERS: frozenset[bytes] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A key, as `key list` shows it. `stale`: left over from a rotation, and of no use."""

    id: str
    details: Details
    by_passphrase: bool
    generation: int
    stale: bool


@dataclass(frozen=True, kw_only=True)
class Entries:
    keys: tuple[Entry, ...]
    unreadable: dict[
        str, Corrupt | HostCannot
    ]  # by id: damaged, forged, or of a signer that the secret does not know


def create(
    store: Store, secret: Secret, *, recipient: str = "", passphrase: bytes = b"", label: str, created: str
) -> str:
    """The first key of a repository, for a recipient or a passphrase: its id. Failure if there are keys already."""
    if keyring.load(store, secret.repository).objects:
        raise Failure("the repository has keys already", hint="`criu-agent key add` adds another one")
    return _add(store, secret, passphrase, Details(created=created, label=label, recipient=recipient))


def add(
    store: Store, secret: Secret, *, recipient: str = "", passphrase: bytes = b"", label: str, created: str
) -> str:
    """One more key, for a recipient or a passphrase: its id."""
    current(store, secret)
    return _add(store, secret, passphrase, Details(created=created, label=label, recipient=recipient))


def entries(store: Store, secret: Secret, *, revoked: frozenset[bytes] = NO_SIGNERS) -> Entries:
    """All keys, those in force first."""
    ring = keyring.load(store, secret.repository)
    trusted = ring.trusted(Trust(signers=secret.signers, revoked=revoked))
    used = {one.id for one in keyring.in_force(trusted)}
    strange = {one.id: _forged(one) for one in ring.objects if one not in trusted}
    found = [entry(one, stale=one.id not in used) for one in trusted]
    found.sort(key=lambda one: (one.stale, one.details.created, one.id))
    return Entries(keys=tuple(found), unreadable={**ring.unreadable, **strange})


def remove(store: Store, secret: Secret, key_id: str, *, revoked: frozenset[bytes] = NO_SIGNERS) -> None:
    """Delete a key, or whatever lies under its name. NotFound; Failure for the last one.

    It takes nothing back from who has opened the repository with it: that is what `rotate` with `drop` is for.
    """
    if PREFIX + key_id not in store.list(PREFIX):
        raise NotFound(f"there is no key {key_id}", hint="`criu-agent key list` shows them")
    used, stale = current(store, secret, revoked=revoked)
    ids = [one.id for one in used]
    if ids == [key_id]:
        raise Failure(
            f"{key_id} is the last key of this repository", hint="add another one before: `criu-agent key add`"
        )
    if key_id in ids:
        # An older generation must be gone before the one in force misses a part, or it would be in force again.
        delete(store, stale)
    store.delete(PREFIX + key_id)


def current(
    store: Store, secret: Secret, *, revoked: frozenset[bytes] = NO_SIGNERS
) -> tuple[list[KeyObject], list[KeyObject]]:
    """The key objects in force, and the stale ones. Failure if the secret is not that of the ones in force."""
    trusted = keyring.load(store, secret.repository).trusted(Trust(signers=secret.signers, revoked=revoked))
    used = keyring.in_force(trusted)
    if not used or (used[0].signers, used[0].introductions) != keyobject.line_of(secret):
        raise Failure("the keys of this repository were changed just now", hint="say it again: it opens them anew")
    return used, [one for one in trusted if one not in used]


def delete(store: Store, objects: Iterable[KeyObject]) -> None:
    for one in objects:
        store.delete(PREFIX + one.id)


def put(store: Store, key_id: str, data: bytes) -> None:
    """Failure if there is another object of that name."""
    # an answer that was lost makes a store say that the name is taken: then it is by us
    if not store.put(PREFIX + key_id, data) and store.get(PREFIX + key_id, len(data) + 1) != data:
        raise Failure(f"the store has another key {key_id} already", hint="say it again")


def entry(one: KeyObject, *, stale: bool) -> Entry:
    return Entry(
        id=one.id,
        details=one.read_details(),
        by_passphrase=one.by_passphrase,
        generation=one.generation,
        stale=stale,
    )


def _add(store: Store, secret: Secret, passphrase: bytes, details: Details) -> str:
    if bool(details.recipient) == bool(passphrase):
        raise Usage("a key is either for a recipient or for a passphrase", hint="give one of them")
    plain, key_id = encode(secret), secrets.token_hex(16)
    wrapped = wrap.wrap_passphrase(plain, passphrase) if passphrase else wrap.wrap(plain, details.recipient)
    data = keyobject.encode(secret, key_id, details, wrapped, by_passphrase=bool(passphrase), siblings=())
    put(store, key_id, data)
    return key_id


def _forged(one: KeyObject) -> Corrupt:
    return Corrupt(
        f"the key object {one.id} is forged: nobody vouches for its signer {one.signers[-1].hex()}",
        hint=keyring.REMOVE_HINT,
    )
