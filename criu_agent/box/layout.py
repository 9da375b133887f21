"""What a box is made of: the directories of its root, and what is bound into it."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from criu_agent.box.outer import Outer

HOST = Path("/")


@dataclass(frozen=True, kw_only=True)
class Bind:
    """A file or directory of the host that is bound into the box: an External of CRIU under `key`."""

    key: str
    source: str  # on the host
    target: str  # in the box

    @property
    def dump_external(self) -> str:
        return f"mnt[{self.target}]:{self.key}"

    @property
    def restore_external(self) -> str:
        return f"mnt[{self.key}]:{self.source}"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """An overlay of a file system that the host has mounted at `path`, which the box has there, too.

    It is mounted on mount_point and bound from there, so that the box gets it in one way at a start and a restore.
    """

    key: str
    path: str
    directory: Path
    mount_point: Path

    @property
    def upper(self) -> Path:
        return self.directory / "upper"

    @property
    def bind(self) -> Bind:
        return Bind(key=self.key, source=str(self.mount_point), target=self.path)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The directories of one run's root, and its binds.

    directory holds upper (what the run wrote), work (overlayfs' own) and is on a file system that can carry an
    upper layer. hidden are paths of the host that the box must not see, such as our own state. user_namespace: the
    box is in one of its own. lower: what the upper layer lies over, the host's root or that of a container image.
    outer are the mounts of the host that the box has, and runtime is where those that are layered are mounted.
    host_root: nothing is layered, the root is the host's own, and upper stays empty.
    """

    directory: Path
    binds: tuple[Bind, ...]
    hidden: tuple[str, ...]
    user_namespace: bool = False
    lower: Path = HOST
    outer: tuple[Outer, ...] = ()
    runtime: Path = Path("/nonexistent")
    host_root: bool = False

    @property
    def foreign(self) -> bool:
        """Whether the root is not the host's."""
        return self.lower != HOST

    @property
    def upper(self) -> Path:
        return self.directory / "upper"

    @property
    def work(self) -> Path:
        return self.directory / "work"

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Outer ones first."""
        return tuple(
            Layer(
                key=one.key,
                path=one.path,
                directory=self.directory / "layers" / one.key,
                mount_point=self.runtime / "layers" / one.key,
            )
            for one in self.outer
            if one.layered
        )

    @property
    def bound(self) -> tuple[Bind, ...]:
        """The outer ones that are the host's own.

        The kernel lets nobody in a user namespace bind a mount without those that lie on it: there they are taken
        from copies that have none. What another host had and this one has not is an empty directory.
        """
        return tuple(
            Bind(
                key=one.key,
                source=str(self.runtime / "bound" / one.key)
                if self.user_namespace or one.path in self._absent
                else one.path,
                target=one.path,
            )
            for one in self.outer
            if not one.layered
        )

    @property
    def absent(self) -> tuple[Bind, ...]:
        """Those of the bound ones that this host has not."""
        return tuple(bind for bind in self.bound if bind.target in self._absent)

    @property
    def copied(self) -> tuple[Bind, ...]:
        """Those of the bound ones that are taken from a copy."""
        return tuple(bind for bind in self.bound if self.user_namespace and bind.target not in self._absent)

    @cached_property
    def _absent(self) -> frozenset[str]:
        return frozenset(one.path for one in self.outer if not one.layered and not os.path.lexists(one.path))

    def upper_of(self, path: str) -> tuple[str, Path]:
        """The mount point of the file system that has `path` in the box, and its upper layer."""
        bases = [("/", self.upper), *((layer.path, layer.upper) for layer in self.layers)]
        return [one for one in bases if path.startswith(f"{one[0].rstrip('/')}/")][-1]

    def uppers(self) -> dict[str, Path]:
        """Everything that the run wrote and that is not written through, by the name of its tree in a snapshot."""
        return {"upper": self.upper, **{layer.key: layer.upper for layer in self.layers}}

    def dump_externals(self) -> list[str]:
        """mnt[/] is the overlay root: at the restore --root is its counterpart."""
        return ["mnt[/]:root", *(bind.dump_external for bind in self.binds)]

    def restore_externals(self) -> list[str]:
        return [bind.restore_external for bind in self.binds]
