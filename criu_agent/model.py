"""The values that the parts of criu-agent hand to each other: frozen, without I/O.

Sizes are bytes, times are RFC 3339 UTC strings (`2026-11-21T03:14:15.123456Z`) unless a name says otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

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
Closure = Literal["none", "lean", "full"]
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
    cpu_baseline: str = ""  # "x86-64-v2": the instruction sets that its programs were kept to; "": all
    no_new_privs: bool = False  # no program of the run can gain privileges by its set-user-ID bit
    tty: bool = False
    stdin_open: bool = False
    net: Literal["host"] = "host"
    fs: Literal["overlay", "host"] = "overlay"  # host: no layer of its own, everything is written through
    image: str = ""  # digest of the container image that the box's root is; "": the host's own root
    closure: Closure = "lean"  # which files of its root go into a snapshot beside what the run wrote
    through: tuple[str, ...] = ()  # absolute host paths that are written through, workdir included
    # Those of them that known agents keep (ops.agents): path to "directory" or "file".
    agent_state: Mapping[str, str] = field(default_factory=dict)
    backing: Mapping[str, str] = field(default_factory=dict)  # of those that lie elsewhere on this host: where
    exclude: tuple[str, ...] = ()  # globs of what is written through and in no snapshot, besides those for all runs
    capture: tuple[str, ...] = ()  # absolute paths of the host that are not written to, and in snapshots too
    labels: Mapping[str, str] = field(default_factory=dict)
    repository: str = ""  # URL or path of the repository that snapshots go to
    endpoint_url: str = ""  # of its S3 service; "": as the environment says
    key_file: str = ""  # that opens it; "": the one that `init` made on this host, or a passphrase
    passphrase_file: str = ""
    remove_on_exit: bool = False
    every: float | None = None  # seconds from one automatic checkpoint to the next
    on_idle: float | None = None  # seconds of doing nothing after which an automatic checkpoint is taken
    keep_last: int | None = None  # automatic snapshots that are kept; None: all of them
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
    checkpoint_error: str = ""  # why the newest automatic checkpoint failed, until one succeeds
    checkpoint_error_time: str = ""
    suspended_at: str = ""  # the snapshot that the run was stopped at, until it runs again
    epoch: int = 1
    network_lock: str = ""  # nft table that CRIU left to hold connections of a suspended run
    restored: str = ""  # the snapshot that it was brought back from last
    # The host that a migrate handed it over to, before that host was told to let it run. While suspended: whether it
    # runs there is not known.
    moved_to: str = ""
    error: str = ""  # why the run is degraded or failed
    updated: str = ""


# A part of a blob: the number of a piece in the manifest's table, or -1 for zeros; the first page of it, counted from
# the piece's beginning; how many pages. A page is 4096 bytes, and a blob's last one may be shorter.
Extent = tuple[int, int, int]

# Pages that lie one after the other in a stream: the number of the first one, and how many. The number of a page of
# memory is its virtual address / 4096, else its offset / 4096.
PageRun = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Blob:
    """Bytes in the repository: how many, and the extents that they lie in, in order (docs/format.md)."""

    size: int
    extents: tuple[Extent, ...]


class Piece(NamedTuple):
    """Up to 256 KiB that are compressed, named and verified as a whole; one frame of a pack."""

    name: str  # 32 hex digits: the keyed BLAKE3 of the plain bytes, cut to 16 bytes
    pack: int  # its number in the table
    offset: int  # of the frame in the pack's plain content
    stored: int  # length of the frame
    plain: int


class Pack(NamedTuple):
    """An object full of frames."""

    id: str  # 32 hex digits
    length: int  # of the plain content with its padding


@dataclass(frozen=True, kw_only=True)
class Table:
    """All pieces that the blobs of one manifest name, and the packs that they lie in."""

    packs: tuple[Pack, ...]
    pieces: tuple[Piece, ...]


class Part(NamedTuple):
    """Neighbouring pages of a blob of the snapshot that a new one is compared with."""

    blob: Blob
    first: int
    pages: int


class Readable(Protocol):
    def readinto(self, buffer: memoryview, /) -> int | None: ...


@dataclass(frozen=True, kw_only=True)
class Source:
    """A stream that is to be saved: `size` bytes of `content`, from its position on.

    `stream` is what it is called in every snapshot of the run: the stream of that name in the snapshot before is
    what it is compared with. `runs` numbers its pages; () numbers them by their offsets.

    taken: what need not be read, since that snapshot has it: (its first page in the stream, where it is), ascending.
    `content` is the rest, and the last page of everything is whole then.
    """

    stream: str
    size: int
    content: Readable
    runs: tuple[PageRun, ...] = ()
    taken: tuple[tuple[int, Part], ...] = ()


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
    cgroups: str = ""  # "v1", "hybrid" or "v2"; "none" where none is mounted, "" where the writer did not know
    time_namespaces: bool = False  # the run's clocks that count from boot are its own
    monotonic: int = 0  # nanoseconds since the host's boot, as CLOCK_MONOTONIC says; 0 where the writer did not know


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
    resources: Mapping[str, Any]
    size: int = 0  # sum of the plain sizes of its contents; the writer fills it in
    stored: int = 0  # bytes of packs that it added to the repository; the writer fills it in


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The second part of a manifest: where everything is stored."""

    table: Table
    images: Mapping[str, Blob]  # CRIU's image files by name
    trees: Mapping[str, Tree]  # captured file trees by name ("upper"), see fs.tree
    attachments: Mapping[str, Blob]  # bytes that Resources saved, by name ("scrollback")

    @property
    def size(self) -> int:
        """Sum of the plain sizes of everything."""
        trees = [blob for tree in self.trees.values() for blob in (tree.index, *tree.blobs)]
        return sum(blob.size for blob in (*self.images.values(), *self.attachments.values(), *trees))


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A manifest that was read, and the id that it is stored under: the hex BLAKE3-256 of the stored bytes.

    Where its contents are is another part of the manifest, which may be large: the repository reads it when asked.
    """

    id: str
    manifest: Manifest
    tags: tuple[str, ...]  # as they are now; the manifest has those that it was made with
    generation: int  # of the keys that it was made with

    @property
    def size(self) -> int:
        return self.manifest.size

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
