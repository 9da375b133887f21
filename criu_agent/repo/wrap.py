"""age files (age-encryption.org/v1): a few bytes wrapped for a recipient, or with a passphrase.

The one module that knows pyrage. What pyrage 1.4 does with a passphrase file that somebody else has made: it accepts
a work factor well above what takes a second on this host. Measured where that was 2^18: 2^23 is accepted, and took
8 GiB of memory and 57 seconds; from 2^24 on it is refused at once. Hence our own look at the header before.
"""

import re
from typing import Protocol

import pyrage  # type: ignore[import-untyped]  # it has no annotations: what it returns is named here

from criu_agent.errors import Corrupt, Failure, Usage

WORK_LIMIT = 20  # log2 of scrypt's N: 2^20 takes 1 GiB of memory (128 * 8 * N bytes) and 3 to 6 seconds
# The grammar of the age header, for exactly one stanza and that of scrypt: a file with two is no passphrase file.
_SCRYPT = re.compile(
    rb"age-encryption\.org/v1\n-> scrypt [A-Za-z0-9+/]{22} ([1-9][0-9]?)\n[A-Za-z0-9+/]{43}\n--- [A-Za-z0-9+/]{43}\n"
)


class Identity(Protocol):
    """An age X25519 private key; str() of it is `AGE-SECRET-KEY-1...`."""

    def to_public(self) -> object: ...


def generate() -> Identity:
    made: Identity = pyrage.x25519.Identity.generate()
    return made


def identity(text: str) -> Identity:
    """The identity of an `AGE-SECRET-KEY-1...`. Usage, which does not repeat it, if it is none."""
    try:
        read: Identity = pyrage.x25519.Identity.from_str(text)
    except pyrage.IdentityError as error:
        raise Usage("this is no age identity", hint="`age-keygen` makes one") from error
    return read


def recipient_of(one: Identity) -> str:
    """`age1...`."""
    return str(one.to_public())


def check_recipient(text: str) -> None:
    """Usage if that is no X25519 recipient."""
    try:
        pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError as error:
        raise Usage(
            f"{text!r} is no recipient", hint="one begins with age1; `age-keygen -y KEYFILE` shows it"
        ) from error


def wrap(plain: bytes, recipient: str) -> bytes:
    check_recipient(recipient)
    wrapped: bytes = pyrage.encrypt(plain, [pyrage.x25519.Recipient.from_str(recipient)])
    return wrapped


def unwrap(wrapped: bytes, identities: tuple[Identity, ...]) -> bytes | None:
    """The plain bytes, or None if it is not for any of the identities, or damaged."""
    try:
        plain: bytes = pyrage.decrypt(wrapped, list(identities))
    except pyrage.DecryptError:
        return None
    return plain


def wrap_passphrase(plain: bytes, passphrase: bytes) -> bytes:
    """By scrypt, with the work factor that takes about a second here."""
    wrapped: bytes = pyrage.passphrase.encrypt(plain, _text(passphrase))
    if work(wrapped) is None:
        raise Failure("scrypt's work factor for this host is above what criu-agent reads", hint="use a key file")
    return wrapped


def work(wrapped: bytes) -> int | None:
    """scrypt's N, or None if this is no passphrase file, or N is above the limit."""
    match = _SCRYPT.match(wrapped)
    return 1 << int(match[1]) if match and int(match[1]) <= WORK_LIMIT else None


def unwrap_passphrase(wrapped: bytes, passphrase: bytes) -> bytes | None:
    """The plain bytes, or None if it has another passphrase, or is damaged. Corrupt for what `work` refuses."""
    if work(wrapped) is None:
        raise Corrupt(f"this is no passphrase file, or its work factor is above 2^{WORK_LIMIT}")
    try:
        plain: bytes = pyrage.passphrase.decrypt(wrapped, _text(passphrase))
    except pyrage.DecryptError:
        return None
    return plain


def _text(passphrase: bytes) -> str:
    """age takes UTF-8. An empty passphrase protects nothing: refused."""
    try:
        text = passphrase.decode()
    except UnicodeDecodeError as error:
        raise Usage("the passphrase is not UTF-8") from error
    if not text:
        raise Usage("the passphrase is empty")
    return text
