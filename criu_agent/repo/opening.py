"""Opening a repository: from key objects to the secret (docs/format.md C8)."""

from collections.abc import Sequence
from dataclasses import dataclass

from criu_agent.errors import Corrupt, WrongKey
from criu_agent.repo import keyring, wrap
from criu_agent.repo.agescrypt import is_affordable
from criu_agent.repo.keyobject import KeyObject
from criu_agent.repo.keyring import Keyring
from criu_agent.repo.secret import Secret
from criu_agent.repo.trust import Trust
from criu_agent.repo.wrap import Identity
from criu_agent.store.base import Store

_ATTEMPTS = 16  # with scrypt in one opening: about ten seconds
_TRUST_HINT = (
    "a signer is trusted by a line `# signer: ...` in the key file, or `REPOSITORY-ID SIGNER` in allowed_signers; "
    "the host that made the repository shows it with `criu-agent key list`"
)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The secret, and the id of the key object that it came from."""

    secret: Secret
    key_id: str


def with_identities(store: Store, repository_id: str, identities: Sequence[Identity], trust: Trust) -> Opened:
    """Open with the identities of a key file.

    WrongKey if none of them fits, or no trusted signer stands behind the key objects: that a secret was wrapped for
    us does not say by whom. Corrupt if there are no keys at all, or two generations have the same claim.
    """
    if not trust.signers:
        raise WrongKey("no signer is trusted, so nobody vouches for the keys of this repository", hint=_TRUST_HINT)
    ring = _load(store, repository_id)
    for one in _in_force(ring, trust):
        plain = None if one.by_passphrase else wrap.unwrap(one.wrapped, tuple(identities))
        if plain is not None:
            return Opened(secret=one.read_secret(plain), key_id=one.id)
    raise WrongKey(
        "the key file opens no key of this repository",
        hint="name another one with --key-file; `criu-agent key list` on a host that has a key shows whose there are",
    )


def with_passphrase(store: Store, repository_id: str, passphrase: bytes, trust: Trust) -> Opened:
    """Open with a passphrase. Whoever wrapped the secret with it knew it: no other trust is needed.

    WrongKey if it does not fit; Corrupt as in `with_identities`. Takes half a second for each passphrase that there
    is, and about ten at most whatever a hostile store shows.
    """
    ring = _load(store, repository_id)
    tried = _Passphrase(passphrase)
    candidates = [one for one in ring.objects if one.by_passphrase and one.signers[-1] not in trust.revoked]
    # the trusted before the others, newer before older
    candidates.sort(key=lambda one: (one.trusted(trust), one.generation), reverse=True)
    opened = next((one for one in candidates if tried.opens(one)), None)
    if opened is None:
        raise WrongKey("the passphrase opens no key of this repository", hint=tried.hint)
    # A rotation may have come since, with or without this passphrase.
    for one in _in_force(ring, trust.and_signers(opened.signers)):
        if one.by_passphrase and tried.opens(one):
            return Opened(secret=one.read_secret(tried.plain[one.id]), key_id=one.id)
    raise WrongKey(
        "the passphrase was dropped when the keys were rotated",
        hint="use another key; `criu-agent key add` adds a passphrase again",
    )


class _Passphrase:
    """One passphrase, tried on so many key objects and no more."""

    def __init__(self, passphrase: bytes) -> None:
        self.plain: dict[str, bytes] = {}
        self.hint = "name a key file with --key-file if there is one"
        self._passphrase = passphrase
        self._tried: set[str] = set()
        self._left = _ATTEMPTS

    def opens(self, one: KeyObject) -> bool:
        if one.id not in self._tried:
            self._tried.add(one.id)
            self._try(one)
        return one.id in self.plain

    def _try(self, one: KeyObject) -> None:
        if not self._left or not is_affordable(one.wrapped):
            self.hint = f"key object {one.id} asks for too much work and was not tried; {keyring.REMOVE_HINT}"
            return
        self._left -= 1
        plain = wrap.unwrap_passphrase(one.wrapped, self._passphrase)
        if plain is not None:
            self.plain[one.id] = plain


def _load(store: Store, repository_id: str) -> Keyring:
    ring = keyring.load(store, repository_id)
    if not ring.objects:
        raise next(iter(ring.unreadable.values()), None) or Corrupt(
            "the repository has no keys",
            hint="if its `init` was cut off, say it again; else bring keys/ back from a copy",
        )
    return ring


def _in_force(ring: Keyring, trust: Trust) -> list[KeyObject]:
    found = keyring.in_force(ring.trusted(trust))
    if not found:
        signers = sorted({one.signers[-1].hex() for one in ring.objects})
        raise WrongKey(
            f"no trusted signer stands behind the keys of this repository; they are signed by {', '.join(signers)}",
            hint=_TRUST_HINT,
        )
    return found
