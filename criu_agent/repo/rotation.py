"""`key rotate`: a new generation of keys (docs/format.md C8).

One at a time: the caller holds the register `locks/keys`.
"""

import secrets
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from criu_agent import log
from criu_agent.errors import Failure, NotFound
from criu_agent.repo import keyobject, wrap
from criu_agent.repo import secret as secrets_of
from criu_agent.repo.keyobject import Details, KeyObject
from criu_agent.repo.keys import NO_SIGNERS, Entry, current, delete, entry, put
from criu_agent.repo.secret import Secret
from criu_agent.store.base import Store


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """`kept` and `dropped` are keys of the generation before: those with a successor, and those without."""

    secret: Secret
    kept: tuple[Entry, ...]
    dropped: tuple[Entry, ...]


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """A key that gets a successor."""

    old: Entry
    passphrase: bytes = field(repr=False)


def rotate(
    store: Store,
    secret: Secret,
    *,
    created: str,
    passphrases: Sequence[bytes] = (),
    drop: Collection[str] = (),
    revoked: frozenset[bytes] = NO_SIGNERS,
) -> Rotation:
    """New master, new signer, wrapped for every recipient but those of the keys in `drop` (ids).

    A passphrase key is kept if its passphrase is among those that are given. `created` is now. NotFound for an id
    that is not in force; Failure if no key would be left. The old generation is in force until the last new key
    object is there, and the new one from then on: whoever dies in between leaves a repository that opens, and
    objects that the next rotation deletes.
    """
    used, stale = current(store, secret, revoked=revoked)
    _check_drop(drop, used)
    kept = [one for one in (_kept(key, passphrases) for key in used if key.id not in drop) if one]
    if not kept:
        raise Failure("no key would be left", hint="give a passphrase that is in use, or add a key before")
    delete(store, stale)
    new_secret = secrets_of.rotated(secret)
    for key_id, data in list(_objects(new_secret, kept, created)):  # all of them, before anything is written
        put(store, key_id, data)
    current(store, new_secret, revoked=revoked)  # else somebody deleted one meanwhile: then the old ones must stay
    # in force; what follows only tidies up
    for one in used:
        try:
            delete(store, [one])
        except Failure as error:
            log.warning("the old key %s could not be deleted: %s", one.id, error.message)
    lasting = {one.old.id for one in kept}
    return Rotation(
        secret=new_secret,
        kept=tuple(one.old for one in kept),
        dropped=tuple(entry(one, stale=True) for one in used if one.id not in lasting),
    )


def _check_drop(drop: Collection[str], used: Sequence[KeyObject]) -> None:
    unknown = sorted(set(drop) - {one.id for one in used})
    if unknown:
        raise NotFound(f"there is no key {unknown[0]}", hint="`criu-agent key list` shows them")


def _kept(one: KeyObject, passphrases: Sequence[bytes]) -> _Kept | None:
    if not one.by_passphrase:
        return _Kept(old=entry(one, stale=True), passphrase=b"")
    for passphrase in passphrases:
        if wrap.unwrap_passphrase(one.wrapped, passphrase) is not None:
            return _Kept(old=entry(one, stale=True), passphrase=passphrase)
    return None


def _objects(secret: Secret, kept: Sequence[_Kept], created: str) -> Iterator[tuple[str, bytes]]:
    """Id and bytes of each new key object; each names all of them."""
    plain = secrets_of.encode(secret)
    ids = [secrets.token_hex(16) for _ in kept]
    for key_id, one in zip(ids, kept, strict=True):
        recipient = one.old.details.recipient
        wrapped = wrap.wrap(plain, recipient) if recipient else wrap.wrap_passphrase(plain, one.passphrase)
        details = Details(created=created, label=one.old.details.label, recipient=recipient)
        yield key_id, keyobject.encode(secret, key_id, details, wrapped, by_passphrase=not recipient, siblings=ids)
