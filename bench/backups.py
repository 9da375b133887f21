"""restic and borg, as one would use them for CRIU's image directories: encrypted, with the quickest compression."""

import os
from pathlib import Path

from bench.common import quiet

_PASSPHRASE = "bench"


class Restic:
    def __init__(self, here: Path) -> None:
        self.repository = here / "restic"
        cache = {"RESTIC_CACHE_DIR": str(here / "restic-cache"), "RESTIC_PASSWORD": _PASSPHRASE}
        self._environment = {**os.environ, **cache, "RESTIC_REPOSITORY": str(self.repository)}
        self._do("init")

    def backup(self, images: Path) -> None:
        self._do("backup", str(images))

    def restore(self, target: Path) -> None:
        self._do("restore", "latest", "--target", str(target))

    def _do(self, *arguments: str) -> None:
        quiet(["restic", "--quiet", *arguments], env=self._environment)


class Borg:
    def __init__(self, here: Path) -> None:
        self.repository = here / "borg"
        base = {"BORG_BASE_DIR": str(here / "borg-base"), "BORG_PASSPHRASE": _PASSPHRASE}
        self._environment = {**os.environ, **base, "BORG_REPO": str(self.repository)}
        self._last = 0
        self._do("init", "--encryption", "repokey-blake2")

    def backup(self, images: Path) -> None:
        self._last += 1
        self._do("create", "--compression", "zstd,1", f"::{self._last}", str(images))

    def restore(self, target: Path) -> None:
        self._do("extract", f"::{self._last}", cwd=target)

    def _do(self, *arguments: str, cwd: Path | None = None) -> None:
        quiet(["borg", *arguments], env=self._environment, cwd=cwd)
