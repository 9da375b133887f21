"""Signed objects: version line, signer, signature, body (docs/format.md C4)."""

from collections.abc import Callable
from dataclasses import dataclass

from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from criu_agent.errors import Corrupt
from criu_agent.repo.secret import KEY, context, private_key, signer_of
from criu_agent.store.document import behind_version_line, version_line

VERSION = 2
SIGNATURE = 64  # bytes
OVERHEAD = KEY + SIGNATURE


@dataclass(frozen=True, kw_only=True)
class Place:
    """What is signed as what: the kind of the object, its repository and name, and what errors call it."""

    kind: str
    repository: str
    name: str
    what: str

    @property
    def context(self) -> bytes:
        return context(self.kind, self.repository, self.name)


def sign(place: Place, seed: bytes, body: bytes) -> bytes:
    """The object with that body, signed with the private key `seed`."""
    line, signer = version_line(place.kind, VERSION), signer_of(seed)
    signature = private_key(seed).sign(_message(place, signer, line, memoryview(body)))
    return b"".join([line, signer, signature, body])


def verify(place: Place, data: bytes, limit: int, accepted: Callable[[bytes], bool]) -> tuple[bytes, memoryview]:
    """The signer and the body, once an accepted signer's signature is right.

    `data` may be cut one byte after `limit`. Corrupt, or HostCannot for another version.
    """
    what = place.what
    if len(data) > limit:
        raise Corrupt(f"{what} is changed: it is longer than {limit} bytes")
    line = version_line(place.kind, VERSION)
    behind_version_line(data[: len(line) + 16], place.kind, VERSION, what)
    view = memoryview(data)[len(line) :]
    if len(view) < OVERHEAD:
        raise Corrupt(f"{what} is truncated")
    signer, signature, body = bytes(view[:KEY]), bytes(view[KEY:OVERHEAD]), view[OVERHEAD:]
    if not accepted(signer):
        raise Corrupt(
            f"{what} is forged, or of keys that this host does not know: its signer is {signer.hex()}",
            hint="after a `key rotate` elsewhere try again; else somebody has written to your store",
        )
    if not is_signed(signer, signature, _message(place, signer, line, body)):
        raise Corrupt(f"{what} is changed: its signature is wrong")
    return signer, body


def is_signed(signer: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(signer).verify(signature, message)
    except (InvalidSignature, ValueError):  # ValueError: no point of the curve
        return False
    return True


def _message(place: Place, signer: bytes, line: bytes, body: memoryview) -> bytes:
    digest = blake3(line).update(body).digest()
    return b"".join([b"criu-agent signature 2\n", place.context, signer, digest])
