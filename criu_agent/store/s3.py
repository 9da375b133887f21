"""A store in a bucket of any S3 server. An object is one PUT: nothing half-made can be left behind.

Who is first is decided by the server: `If-None-Match: *` makes an object, `If-Match: <etag>` replaces a register.
The answer to such a put can be lost, and a put that is sent again is then refused because of itself. So after a
request whose outcome is not known, what is there is read back and compared: if it has our bytes, it is ours.
"""

import re
from collections.abc import Callable
from typing import TypeVar

from criu_agent.errors import NotFound, Usage
from criu_agent.store import s3_requests as requests
from criu_agent.store.base import NAME, check_register, components
from criu_agent.store.s3_client import Clients
from criu_agent.store.s3_errors import Answer, Place
from criu_agent.store.s3_retry import Patience, persist

_BUCKET = re.compile(r"[a-z0-9A-Z][A-Za-z0-9._-]{1,254}")
_Result = TypeVar("_Result")


class S3Store:
    """Objects below `prefix` in a bucket.

    With `conditional=False` the server need not know conditional puts: `put` looks, then writes, and `swap` compares,
    then writes. That is right as long as one process at a time uses the repository, and no more: of two that race,
    both are told that they were first.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint_url: str = "",
        conditional: bool = True,
        patience: Patience | None = None,
    ) -> None:
        """No request is made yet. Credentials, region and CA as boto3 finds them; `endpoint_url` before its own."""
        if not _BUCKET.fullmatch(bucket):
            raise Usage(f"{bucket!r} is not the name of a bucket", hint="-r s3://BUCKET/PREFIX")
        prefix = "".join(f"{part}/" for part in components(prefix)) if prefix else ""
        self._patience = patience or Patience()
        self._clients = Clients(bucket, prefix, endpoint_url, self._patience)
        self._conditional = conditional
        self._quoted = True

    @property
    def place(self) -> Place:
        return self._clients.place

    @property
    def conditional(self) -> bool:
        """Whether writers of several processes and hosts exclude each other."""
        return self._conditional

    def get(self, name: str, limit: int, *, offset: int = 0) -> bytes:
        key = self._key(name)
        data = self._persist(lambda _: _found(lambda: requests.read(self._clients, key, limit, offset)))
        if data is None:
            raise NotFound(f"there is no object {name} in {self.place}")
        return data

    def put(self, name: str, data: bytes | memoryview) -> bool:
        key = self._key(name)
        attempt = self._create if self._conditional else self._look_and_create
        content = bytes(data)  # the clients may hold it for longer than a caller lends its memory
        return self._persist(lambda again: attempt(key, content, again))

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        key = self._key(name)
        check_register(new)
        if old is None:
            return self.put(name, new)
        attempt = self._exchange if self._conditional else self._compare_and_overwrite
        return self._persist(lambda again: attempt(key, old, new, again))

    def list(self, prefix: str) -> dict[str, int]:
        """As the contract says; keys that are no names of ours are left out."""
        root = self.place.prefix
        page = self._page(root + prefix, "")
        sizes = page.sizes
        while page.token:
            page = self._page(root + prefix, page.token)
            sizes |= page.sizes
        names = {key.removeprefix(root): size for key, size in sizes.items()}
        return {name: names[name] for name in sorted(names) if all(map(NAME.fullmatch, name.split("/")))}

    def delete(self, name: str) -> None:
        key = self._key(name)
        self._persist(lambda _: requests.remove(self._clients, key))

    def _create(self, key: str, data: bytes, again: bool) -> bool:
        try:
            requests.create(self._clients, key, data)
        except Answer as answer:
            if not answer.refused:
                raise
            return again and self._holds(key, data)
        return True

    def _look_and_create(self, key: str, data: bytes, again: bool) -> bool:
        if requests.size(self._clients, key) is not None:
            return again and self._holds(key, data)
        requests.overwrite(self._clients, key, data)
        return True

    def _exchange(self, key: str, old: bytes, new: bytes, again: bool) -> bool:
        """RFC 9110 has the quotes in the tag. Ceph up to 18 compares If-Match with a tag that has none, and so a
        tag that is right is refused: if the register is still as it was then, the other form is tried."""
        for quoted in (self._quoted, not self._quoted):
            register = _found(lambda: requests.read_register(self._clients, key))
            if register is None or register.data != old:
                return again and register is not None and register.data == new
            try:
                requests.exchange(self._clients, key, new, register.etag if quoted else register.etag.strip('"'))
            except Answer as answer:
                if not (answer.refused or answer.missing):
                    raise
                again = True  # a proxy may have sent it twice
            else:
                self._quoted = quoted
                return True
        raise Answer(409, "ConditionalRequestConflict")

    def _compare_and_overwrite(self, key: str, old: bytes, new: bytes, again: bool) -> bool:
        register = _found(lambda: requests.read_register(self._clients, key))
        if register is None or register.data != old:
            return again and register is not None and register.data == new
        requests.overwrite(self._clients, key, new)
        return True

    def _holds(self, key: str, data: bytes) -> bool:
        return _found(lambda: requests.read(self._clients, key, len(data) + 1, 0)) == data

    def _page(self, prefix: str, token: str) -> requests.Page:
        return self._persist(lambda _: requests.page(self._clients, prefix, token))

    def _key(self, name: str) -> str:
        components(name)
        return self.place.prefix + name

    def _persist(self, attempt: Callable[[bool], _Result]) -> _Result:
        return persist(attempt, self._patience, self.place)


def _found(read: Callable[[], _Result]) -> _Result | None:
    """What it reads, or None if there is no such object."""
    try:
        return read()
    except Answer as answer:
        if answer.missing:
            return None
        raise
