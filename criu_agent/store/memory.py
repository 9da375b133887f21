"""A store that lives as long as its process: what tests use, and the shortest reading of the promises."""

import threading
from collections.abc import Sequence

from criu_agent.errors import NotFound
from criu_agent.store.base import components


class MemoryStore:
    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def get(self, name: str, limit: int) -> bytes:
        components(name)
        with self._lock:
            if name not in self.objects:
                raise NotFound(f"there is no object {name}")
            return self.objects[name][:limit]

    def put(self, name: str, data: bytes) -> bool:
        components(name)
        with self._lock:
            if name in self.objects:
                return False
            self.objects[name] = bytes(data)
            return True

    def size(self, name: str) -> int | None:
        components(name)
        with self._lock:
            return len(self.objects[name]) if name in self.objects else None

    def list(self, prefix: str) -> Sequence[str]:
        with self._lock:
            return sorted(name for name in self.objects if name.startswith(prefix))

    def delete(self, name: str) -> None:
        components(name)
        with self._lock:
            self.objects.pop(name, None)
