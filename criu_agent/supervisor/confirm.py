"""The last word of the other host in a migrate: a restored run waits for it, stopped, before it goes on.

Until the word is said the run has not moved, whatever becomes of the connection; so the source may go on itself.
"""

import os
import select
import time
from collections.abc import Callable

from criu_agent.errors import Failure

GO = b"go\n"
_PATIENCE = 30.0  # seconds; the source answers at once, or never


def await_go(fd: int, tell: Callable[[], None]) -> None:
    """tell() the other side that everything is there, and read its word from fd. Failure if it does not say go."""
    tell()
    said = _read_line(fd, time.monotonic() + _PATIENCE)
    os.close(fd)
    if said != GO:
        raise Failure(
            "the host that the run comes from did not say that it may go on",
            hint="it goes on where it was: criu-agent ps there",
            agent_state="not running",
        )


def _read_line(fd: int, deadline: float) -> bytes:
    said = b""
    while not said.endswith(b"\n") and len(said) < len(GO):
        ready, _, _ = select.select([fd], [], [], max(deadline - time.monotonic(), 0))
        data = os.read(fd, 1) if ready else b""
        if not data:  # the connection has ended, or it took too long
            break
        said += data
    return said
