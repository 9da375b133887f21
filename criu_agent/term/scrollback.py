"""What a run printed lately, kept in memory and carried in its snapshots."""

from collections import deque

LINES = 10_000
_LONGEST = 1 << 16  # bytes of one line: a program that never ends a line must not fill the memory
_BYTES = 4 << 20  # of all of them: less than a frame of the control socket holds


class Scrollback:
    """The last `lines` lines of output, as the bytes that came; fewer when they are very long."""

    def __init__(self, content: bytes = b"", *, lines: int = LINES) -> None:
        self._most = lines
        self._lines: deque[bytes] = deque()
        self._open = bytearray()
        self._size = 0  # of the lines that are complete
        self.add(content)

    def add(self, data: bytes) -> None:
        *complete, rest = data.split(b"\n")
        for line in complete:
            self._keep(bytes(self._open) + line + b"\n")
            self._open.clear()
        self._open += rest
        if len(self._open) > _LONGEST:
            self._keep(bytes(self._open))
            self._open.clear()

    def _keep(self, line: bytes) -> None:
        self._lines.append(line)
        self._size += len(line)
        while len(self._lines) > self._most or self._size > _BYTES:
            self._size -= len(self._lines.popleft())

    def tail(self, lines: int) -> bytes:
        """The last `lines` lines; an unfinished one counts."""
        kept = [*self._lines, bytes(self._open)] if self._open else list(self._lines)
        return b"".join(kept[-lines:]) if lines > 0 else b""

    def content(self) -> bytes:
        return b"".join(self._lines) + bytes(self._open)
