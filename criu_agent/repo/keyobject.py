"""Key objects: the secret, wrapped, with the line of signers that vouches for it (docs/format.md C8)."""

import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from criu_agent.errors import Corrupt
from criu_agent.repo import secret as secrets_of
from criu_agent.repo.fields import Fields
from criu_agent.repo.secret import GENERATIONS, KEY, Secret, introduction
from criu_agent.repo.signed import SIGNATURE, Place, is_signed, sign, verify
from criu_agent.repo.trust import Trust
from criu_agent.store.document import from_json, to_json

LIMIT = 128 << 10  # bytes of the object
COUNT = 1024  # of a repository
_ID = 16  # bytes
_RECIPIENT, _PASSPHRASE = 1, 2
_U32 = struct.Struct(">I")
_KIND = struct.Struct(">BH")  # kind, how many ids follow


@dataclass(frozen=True, kw_only=True)
class Details:
    """What is for people, and for the next rotation: `recipient` is "" for a passphrase."""

    created: str
    label: str
    recipient: str


@dataclass(frozen=True, kw_only=True)
class KeyObject:
    """A key object whose signatures are right. Who signed, and whether to believe him, is asked with `trusted`.

    `siblings` are the ids of the key objects that were made when the generation began. `details` is JSON.
    """

    id: str
    repository: str
    signers: tuple[bytes, ...]
    introductions: tuple[bytes, ...]
    by_passphrase: bool
    siblings: frozenset[str]
    details: bytes
    wrapped: bytes

    @property
    def generation(self) -> int:
        return len(self.signers)

    def trusted(self, trust: Trust) -> bool:
        """Does a trusted signer stand behind it, himself or by those whom he introduced, none of them revoked?"""
        for signer in reversed(self.signers):
            if signer in trust.revoked:
                return False
            if signer in trust.signers:
                return True
        return False

    def read_details(self) -> Details:
        """Only of one that is trusted: this parses. Corrupt."""
        what = _what(self.id)
        fields = Fields(from_json(self.details, what), what)
        details = Details(
            created=fields.time("created"), label=fields.text("label"), recipient=fields.text("recipient")
        )
        if bool(details.recipient) == self.by_passphrase:
            raise Corrupt(f"{what} is changed: it is both for a recipient and a passphrase, or for neither")
        return details

    def read_secret(self, plain: bytes) -> Secret:
        """The secret that was unwrapped. Corrupt if it is not that of this object."""
        what = _what(self.id)
        secret = secrets_of.decode(plain, f"the secret in {what}")
        same_line = line_of(secret) == (self.signers, self.introductions)
        if secret.repository != self.repository or not same_line:
            raise Corrupt(f"{what} is changed: what is wrapped in it belongs to another one")
        return secret


def line_of(secret: Secret) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """The signers of all generations, and the introductions between them."""
    generations = secret.generations
    return tuple(one.signer for one in generations), tuple(one.introduction for one in generations[1:])


def encode(
    secret: Secret, key_id: str, details: Details, wrapped: bytes, *, by_passphrase: bool, siblings: Collection[str]
) -> bytes:
    """The object `keys/<key id>`, signed by the current signer."""
    signers, introductions = line_of(secret)
    described = to_json({"created": details.created, "label": details.label, "recipient": details.recipient})
    body = [
        _U32.pack(len(signers)),
        *signers,
        *introductions,
        _KIND.pack(_PASSPHRASE if by_passphrase else _RECIPIENT, len(siblings)),
        *(bytes.fromhex(one) for one in sorted(siblings)),
        _U32.pack(len(described)),
        described,
        wrapped,
    ]
    return sign(_place(secret.repository, key_id), secret.seed, b"".join(body))


def parse(repository_id: str, key_id: str, data: bytes) -> KeyObject:
    """The key object in `data`, which may be cut one byte after LIMIT. Corrupt, or HostCannot for another version.

    All signatures are checked; no JSON is parsed and nothing is decrypted.
    """
    signer, body = verify(_place(repository_id, key_id), data, LIMIT, lambda _signer: True)
    reader = _Reader(body, _what(key_id))
    number = reader.integer(GENERATIONS)
    signers = tuple(reader.take(KEY) for _ in range(number))
    introductions = tuple(reader.take(SIGNATURE) for _ in range(number - 1))
    if number < 1 or signers[-1] != signer or not _introduced(repository_id, signers, introductions):
        raise Corrupt(f"{_what(key_id)} is forged: its line of signers is broken")
    kind, count = _KIND.unpack(reader.take(_KIND.size))
    if kind not in (_RECIPIENT, _PASSPHRASE) or count > COUNT:
        raise Corrupt(f"{_what(key_id)} is changed: it is of no known kind")
    return KeyObject(
        id=key_id,
        repository=repository_id,
        signers=signers,
        introductions=introductions,
        by_passphrase=kind == _PASSPHRASE,
        siblings=frozenset(reader.take(_ID).hex() for _ in range(count)),
        details=reader.take(reader.integer(LIMIT)),
        wrapped=reader.rest(),
    )


class _Reader:
    """The body of a key object from front to back. Corrupt where it ends too early."""

    def __init__(self, body: memoryview, what: str) -> None:
        self._body = body
        self._what = what

    def take(self, length: int) -> bytes:
        if length > len(self._body):
            raise Corrupt(f"{self._what} is truncated")
        taken, self._body = bytes(self._body[:length]), self._body[length:]
        return taken

    def integer(self, most: int) -> int:
        (value,) = _U32.unpack(self.take(_U32.size))
        if value > most:
            raise Corrupt(f"{self._what} is changed: {value} is more than {most}")
        return int(value)

    def rest(self) -> bytes:
        return self.take(len(self._body))


def _introduced(repository_id: str, signers: Sequence[bytes], introductions: Sequence[bytes]) -> bool:
    """Has every signer signed for the one after him?"""
    return all(
        is_signed(signers[number - 2], signature, introduction(repository_id, number, signers[number - 1]))
        for number, signature in enumerate(introductions, 2)
    )


def _place(repository_id: str, key_id: str) -> Place:
    return Place(kind="key", repository=repository_id, name=f"keys/{key_id}", what=_what(key_id))


def _what(key_id: str) -> str:
    return f"the key object {key_id}"
