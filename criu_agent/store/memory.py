"""A store that lives as long as its process: what tests use, and the shortest reading of the promises."""

import threading

from criu_agent.errors import NotFound
from criu_agent.store.base import check_register, components


class MemoryStore:
    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def get(self, name: str, limit: int, *, offset: int = 0) -> bytes:
        components(name)
        with self._lock:
            if name not in self.objects:
                raise NotFound(f"there is no object {name}")
            return self.objects[name][offset : offset + limit]

    def put(self, name: str, data: bytes | memoryview) -> bool:
        components(name)
        with self._lock:
            if name in self.objects:
                return False
            self.objects[name] = bytes(data)
            return True

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        components(name)
        check_register(new)
        with self._lock:
            if self.objects.get(name) != old:
                return False
            self.objects[name] = bytes(new)
            return True

    def list(self, prefix: str) -> dict[str, int]:
        with self._lock:
            return {name: len(self.objects[name]) for name in sorted(self.objects) if name.startswith(prefix)}

    def delete(self, name: str) -> None:
        components(name)
        with self._lock:
            self.objects.pop(name, None)
