"""What snapshots are kept in: names to bytes. docs/format.md says which names there are."""

import re
from collections.abc import Sequence
from typing import Protocol

from criu_agent.errors import Usage

# One component of a name; a leading dot is left to the stores' own files, and so "." and ".." are no names.
NAME = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,128}")


class Store(Protocol):
    """Objects are written once and whole, never changed. Every method may be called from several threads.

    A store that cannot do what is asked raises `errors.Failure` with a hint.
    """

    def get(self, name: str, limit: int) -> bytes:
        """The first `limit` bytes of the object, all of it when it is shorter. NotFound if there is none."""
        ...

    def put(self, name: str, data: bytes) -> bool:
        """Make the object, durable on return: True. It was already there, and is as it was: False."""
        ...

    def size(self, name: str) -> int | None:
        """How many bytes the object has, or None if there is none."""
        ...

    def list(self, prefix: str) -> Sequence[str]:
        """The names that begin with `prefix`, sorted; "" for all of them."""
        ...

    def delete(self, name: str) -> None:
        """After it there is no such object, durably; one that was not there is no error."""
        ...


def components(name: str) -> list[str]:
    """The parts of an object's name between the slashes. `Usage` for what is not a name."""
    parts = name.split("/")
    if not all(NAME.fullmatch(part) for part in parts):
        raise Usage(f"{name!r} is not the name of an object")
    return parts
