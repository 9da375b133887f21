"""Documents that change, by compare-and-swap: heads, tags and locks. Signed and encrypted (docs/format.md)."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from criu_agent.errors import NotFound
from criu_agent.repo import envelope
from criu_agent.repo.envelope import REGISTER_LIMIT
from criu_agent.repo.secret import Secret
from criu_agent.store.base import Store


@dataclass(frozen=True, kw_only=True)
class Register:
    """A register as it was read: its bytes are what a change is compared with."""

    name: str
    data: bytes
    document: dict[str, Any]


class Registers:
    """The registers of one repository."""

    def __init__(self, store: Store, secret: Secret, *, revoked: frozenset[bytes] = frozenset()) -> None:
        self._store = store
        self._secret = secret
        self._revoked = revoked

    def read(self, name: str) -> Register | None:
        """The register, or None if there is none. Corrupt if it is not ours."""
        try:
            data = self._store.get(name, REGISTER_LIMIT + 1)
        except NotFound:
            return None
        document = envelope.open_register(self._secret, name, data, revoked=self._revoked)
        return Register(name=name, data=data, document=document)

    def unread(self, name: str) -> Register | None:
        """What is there, whatever it is, to be replaced; its document is empty. What is no register's size goes."""
        try:
            data = self._store.get(name, REGISTER_LIMIT + 1)
        except NotFound:
            return None
        if len(data) > REGISTER_LIMIT:
            self._store.delete(name)
            return None
        return Register(name=name, data=data, document={})

    def change(self, name: str, old: Register | None, document: Mapping[str, Any]) -> Register | None:
        """Put `document` into the place of `old` (None: of nothing). None if it is not what is there any more.

        A nonce makes every write another one: a store tells them apart by their bytes.
        """
        new = {**document, "nonce": secrets.token_hex(16)}
        data = envelope.seal_register(self._secret, name, new)
        if not self._store.swap(name, old.data if old else None, data):
            return None
        return Register(name=name, data=data, document=new)

    def names(self, prefix: str) -> list[str]:
        return list(self._store.list(prefix))
