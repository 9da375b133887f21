"""What snapshots are kept in: names to bytes. docs/format.md says which names there are."""

import re
from typing import Protocol

from criu_agent.errors import Usage

# One component of a name; a leading dot is left to the stores' own files, and so "." and ".." are no names.
NAME = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,128}")


# A register is read and compared whole at each change of it.
REGISTER_LIMIT = 1 << 16


class Store(Protocol):
    """Objects are written once and whole; only registers are ever replaced. Any method, from any thread.

    What returned is durable, and every later `get` and `list` shows it. A store that cannot do what is asked
    raises `errors.Failure` with a hint; after one from `put`, `swap` or `delete` the work may have been done.
    """

    def get(self, name: str, limit: int, *, offset: int = 0) -> bytes:
        """The first `limit` bytes from `offset` on, fewer where the object ends. NotFound if there is none."""
        ...

    def put(self, name: str, data: bytes | memoryview) -> bool:
        """Make the object, durable on return: True. It was already there, and is as it was: False."""
        ...

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        """Replace the register's bytes if they are `old` (None: if there is none): True, durable on return.

        False if they are not, and nothing is changed. At most REGISTER_LIMIT bytes (ValueError). `new` must
        have a fresh nonce: its bytes are how a store knows its own write again when an answer was lost.
        """
        ...

    def list(self, prefix: str) -> dict[str, int]:
        """The names that begin with `prefix`, sorted, each with its size in bytes; "" for all of them."""
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


def check_register(data: bytes) -> None:
    """ValueError if that is too much for a register."""
    if len(data) > REGISTER_LIMIT:
        raise ValueError(f"a register of {len(data)} bytes is longer than {REGISTER_LIMIT}")
