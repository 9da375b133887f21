"""The values that the parts of criu-agent hand to each other: frozen, without I/O.

Sizes are bytes, times are RFC 3339 UTC strings (`2026-11-21T03:14:15.123456Z`) unless a name says otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

RunStateName = Literal[
    "starting",
    "running",
    "checkpointing",
    "suspended",
    "restoring",
    "degraded",
    "exited",
    "failed",
    "fenced",
]
Action = Literal["keep", "re-plug", "reset", "close", "refuse"]


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What the user asked for, fixed for the life of the run (`run.json`).

    env is the whole environment of the command. It never goes into a snapshot's manifest: the memory image
    has it, and a manifest is read by more people than a memory image.
    """

    id: str
    name: str
    argv: tuple[str, ...]
    workdir: str
    env: Mapping[str, str] = field(repr=False)
    user: str = "0:0"  # "uid:gid" of the command, numbers
    user_namespace: bool = False  # the box is in one of its own, so that CRIU may dump another user than root
    tty: bool = False
    stdin_open: bool = False
    net: Literal["host"] = "host"
    through: tuple[str, ...] = ()  # absolute host paths that are written through, workdir included
    labels: Mapping[str, str] = field(default_factory=dict)
    repository: str = ""  # URL or path of the repository that snapshots go to
    remove_on_exit: bool = False
    created: str = ""


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Where a run is now (`state.json`), rewritten whole by its supervisor only."""

    state: RunStateName
    supervisor_pid: int = 0
    supervisor_start: int = 0  # starttime of /proc/PID/stat in clock ticks: a pid that was reused differs
    boot_id: str = ""
    root_pid: int = 0  # PID 1 of the box, as a pid of the host
    exit_code: int | None = None
    last_snapshot: str = ""
    last_snapshot_time: str = ""
    last_snapshot_size: int = 0
    sequence: int = 0  # of the last snapshot
    suspended_at: str = ""  # the snapshot that the run was stopped at, until it runs again
    epoch: int = 1
    network_lock: str = ""  # nft table that CRIU left to hold connections of a suspended run
    restored: str = ""  # the snapshot that it was brought back from last
    # The host that a migrate handed it over to, before that host was told to let it run. While suspended: whether it
    # runs there is not known.
    moved_to: str = ""
    error: str = ""  # why the run is degraded or failed
    updated: str = ""


@dataclass(frozen=True, kw_only=True)
class Blob:
    """Bytes in the repository: their total size and the names of their chunks in order.

    A chunk name is the lower-case hex BLAKE3-256 of the plain chunk; "" is a chunk of zero bytes, which is
    not stored. Every chunk but the last is `repo.chunks.CHUNK_SIZE` bytes long.
    """

    size: int
    chunks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A captured file tree in the repository (fs.tree): its index, and the blobs that hold its files' contents.

    The blobs are named here and not in the index, so that a manifest names every chunk of its snapshot.
    """

    index: Blob
    blobs: tuple[Blob, ...]


@dataclass(frozen=True, kw_only=True)
class Host:
    """Facts about the host that a snapshot was taken on."""

    hostname: str
    boot_id: str
    kernel: str
    machine: str  # as uname -m
    page_size: int
    criu: str
    cpu_model: str = ""  # as /proc/cpuinfo says; "" and () where the writer did not know
    cpu_flags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What one snapshot consists of. It is written last; its existence is the snapshot.

    resources holds what each Resource saved for itself, by the Resource's name; the values are JSON.
    """

    run_id: str
    run_name: str
    sequence: int  # 1 for the first snapshot of a run, then one more each
    parent: str  # snapshot id, "" for the first
    created: str
    reason: str
    stopped: bool  # the run was stopped at this snapshot and did not go on
    argv: tuple[str, ...]
    workdir: str
    labels: Mapping[str, str]
    tags: tuple[str, ...]
    host: Host
    images: Mapping[str, Blob]  # CRIU's image files by name
    trees: Mapping[str, Tree]  # captured file trees by name ("upper"), see fs.tree
    attachments: Mapping[str, Blob]  # bytes that Resources saved, by name ("scrollback")
    resources: Mapping[str, Any]
    stored: int = 0  # bytes that it added to the repository; `Repository.commit` fills it in


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A manifest and the id that it is stored under: the hex BLAKE3-256 of its bytes."""

    id: str
    manifest: Manifest
    size: int  # sum of the plain sizes of its images, file trees and attachments

    @property
    def stored(self) -> int:
        """Bytes that this snapshot added to the repository, as its writer counted them."""
        return self.manifest.stored


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """What a checkpoint would do with one thing of the tree, and why."""

    kind: Literal["process", "fd", "socket", "mount", "namespace", "memory", "run"]
    pid: int  # as the box sees it; 0 when the thing belongs to no process
    program: str
    fd: int | None
    object: str  # a path, "tcp 127.0.0.1:80 -> 127.0.0.1:5000 established", "anon_inode:[io_uring]"
    action: Action
    reason: str
    fix: str = ""  # for refuse: what the user can do about it
