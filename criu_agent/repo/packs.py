"""Packs: frames one after the other, an object each (docs/format.md)."""

import mmap
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, SimpleQueue

from criu_agent.errors import Failure
from criu_agent.repo.seal import padme, sealed_size
from criu_agent.store.base import Store

PREFIX = "packs/"
PACK = 16 << 20  # plain bytes of one at most
SEGMENT = 1 << 20  # plain bytes that are encrypted, and read, as a whole

Seal = Callable[[str, Sequence[bytes | memoryview], memoryview], memoryview]


class Writer:
    """Collects frames into packs; each that is full is sealed and put while the next one fills.

    seal(id, parts, room) makes an object, in the room, of the plain content, which is the parts one after the other.
    At most `uploads` packs are under way at a time. Threads are there from the first full pack until `wait`.
    """

    def __init__(self, store: Store, run_id: str, seal: Seal, *, uploads: int = 2) -> None:
        self.added = 0  # bytes of objects that are durable
        self.lengths: dict[str, int] = {}  # of each pack that was closed, with its padding
        self._store = store
        self._prefix = prefix(run_id)
        self._seal = seal
        self._uploads = uploads
        self._id = ""
        self._filling: bytearray | None = None
        self._length = 0
        self._buffers: SimpleQueue[bytearray] = SimpleQueue()  # that were touched before, see repo.compare.Slot
        self._buffers_left = 2  # one is filled while the other is sealed
        self._rooms: SimpleQueue[mmap.mmap] = SimpleQueue()
        self._pool: ThreadPoolExecutor | None = None
        self._under_way: deque[Future[int]] = deque()

    def add(self, frame: bytes) -> tuple[str, int]:
        """Append a frame: the id of its pack, and its offset there."""
        if self._length + len(frame) > PACK:
            self._close_pack()
        if self._filling is None:
            self._id = secrets.token_hex(16)
            self._filling = self._buffer()
        offset, self._length = self._length, self._length + len(frame)
        self._filling[offset : self._length] = frame
        return self._id, offset

    def wait(self) -> None:
        """Until every pack that was closed is durable, and no thread is left. Raises what a put raised."""
        try:
            while self._under_way:
                self.added += self._under_way.popleft().result()
        finally:
            self.stop()

    def stop(self) -> None:
        """No thread is left, whatever comes of the packs that are under way."""
        while self._under_way:
            self._under_way.popleft().cancel()
        if self._pool:
            self._pool.shutdown()
            self._pool = None

    def finish(self) -> None:
        """The open pack is closed, too, and everything is durable."""
        self._close_pack()
        self.wait()

    def _close_pack(self) -> None:
        if self._filling is None:
            return
        self.lengths[self._id] = padme(self._length)
        while len(self._under_way) >= self._uploads:
            self.added += self._under_way.popleft().result()
        self._pool = self._pool or ThreadPoolExecutor(self._uploads)
        self._under_way.append(self._pool.submit(self._put, self._id, self._filling, self._length))
        self._filling, self._length = None, 0

    def _buffer(self) -> bytearray:
        if self._buffers_left and self._buffers.empty():
            self._buffers_left -= 1
            return bytearray(PACK)
        return self._buffers.get()

    def _put(self, pack: str, buffer: bytearray, length: int) -> int:
        room = self._room()
        try:
            try:
                with memoryview(buffer)[:length] as frames:
                    padding = bytes(self.lengths[pack] - length)
                    sealed = self._seal(pack, [frames, padding], memoryview(room))
            finally:
                self._buffers.put(buffer)
            name = self._prefix + pack
            # an answer that was lost makes a store say that the name is taken: then it is by us
            if not self._store.put(name, sealed) and self._store.get(name, len(sealed) + 1) != sealed:
                raise Failure(f"the store has another object {name} already")
            return len(sealed)
        finally:
            self._rooms.put(room)

    def _room(self) -> mmap.mmap:
        """Where an object is made: one for each that is under way, aligned as direct writes want it."""
        with suppress(Empty):
            return self._rooms.get_nowait()
        return mmap.mmap(-1, sealed_size(PACK), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def prefix(run_id: str) -> str:
    """What the names of a run's packs begin with; the pack's id follows."""
    return f"{PREFIX}{run_id}/"
