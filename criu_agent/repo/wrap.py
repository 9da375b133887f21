"""A few bytes wrapped in an age file: for a recipient, by pyrage, or with a passphrase, by `agescrypt`."""

from typing import Protocol

import pyrage  # type: ignore[import-untyped]  # it has no annotations: what it returns is named here

from criu_agent.errors import Usage
from criu_agent.repo import agescrypt


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
    return agescrypt.encrypt(plain, _checked(passphrase))


def unwrap_passphrase(wrapped: bytes, passphrase: bytes) -> bytes | None:
    """The plain bytes, or None if it has another passphrase, is damaged, or asks for more work than we spend."""
    return agescrypt.decrypt(wrapped, _checked(passphrase))


def _checked(passphrase: bytes) -> bytes:
    """age takes UTF-8. An empty passphrase protects nothing: refused."""
    try:
        passphrase.decode()
    except UnicodeDecodeError as error:
        raise Usage("the passphrase is not UTF-8") from error
    if not passphrase:
        raise Usage("the passphrase is empty")
    return passphrase
