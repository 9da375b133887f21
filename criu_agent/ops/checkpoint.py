"""Checkpoint a live run: one straight function.

plan (refuse before anything) -> dump ... stage post-dump: terminal, files -> the tree runs on, or is kept frozen
until its snapshot is durable -> images, files, manifest.
"""

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from criu_agent import log, runs
from criu_agent.criu import images, registers, terminals
from criu_agent.criu.command import NetworkLock
from criu_agent.criu.dump import Cancel, Dump
from criu_agent.criu.imagefile import in_directory
from criu_agent.criu.images import ImageDir
from criu_agent.errors import Failure, NoSpace, Refused
from criu_agent.linux import nft
from criu_agent.linux.cpu_baseline import LEVELS
from criu_agent.model import PlanRow
from criu_agent.ops import closure, environment, facts, host, plan, privileges, trees, vault
from criu_agent.ops.closure import Closure
from criu_agent.ops.live import Live, Progress
from criu_agent.ops.save import Instant, Request, Terminal, save
from criu_agent.term.console import Pipes

_SLOWEST = 50 << 20  # bytes a second that a dump makes at least before it is taken for stuck
_PATIENCE = 30.0  # seconds on top of that
_UNHARMED = "running, unharmed"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a checkpoint did (INTERFACE section 3). Durations in ms, sizes in bytes."""

    snapshot: str
    sequence: int
    created: str
    stopped: bool
    frozen_ms: int
    phases: dict[str, int]
    bytes_raw: int
    bytes_stored: int
    connections: list[dict[str, object]]
    warnings: list[str]  # what a restore will lose
    network_lock: str


class Phases:
    """How long each phase took, in ms, by the order of their ends."""

    def __init__(self) -> None:
        self.ms: dict[str, int] = {}
        self._since = time.monotonic()

    def end(self, name: str) -> None:
        now = time.monotonic()
        self.ms[name] = round((now - self._since) * 1000)
        self._since = now


def stdio_pipes(live: Live) -> frozenset[int]:
    """Inodes of the pipes between the run and its supervisor: they are plugged in again at a restore."""
    keys = live.console.keys if isinstance(live.console, Pipes) else []
    return frozenset(int(key.removeprefix("pipe:[").removesuffix("]")) for key in keys)


@contextmanager
def _unharmed() -> Iterator[None]:
    """Say of every error that the run goes on. A full file system is no failure but a "not now"."""
    try:
        yield
    except NoSpace as error:
        raise Refused(error.message, hint=error.hint, agent_state=_UNHARMED) from error
    except Failure as error:
        error.agent_state = error.agent_state or _UNHARMED
        raise
    except OSError as error:
        message = f"{error.strerror}: {error.filename or 'no file'}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Refused(message, hint="free some space there", agent_state=_UNHARMED) from error
        raise Failure(message, agent_state=_UNHARMED) from error


@_unharmed()
def checkpoint(
    live: Live,
    request: Request,
    *,
    save_terminal: Callable[[], Terminal],
    cancel: Cancel,
    progress: Progress,
) -> Summary:
    """Take a snapshot. On any error the run goes on unharmed, and no snapshot is to be seen."""
    phases = Phases()
    progress("plan", 0, 0)
    here = host.facts(live.config)
    found = look(live)
    plan.check(judge(live, found))
    images.check_memory(images.capacity(found.memory))
    # Once it has snapshots it must be there: who unmounts it must not find the next ones somewhere else.
    repository = vault.open_repository(live.config, make=not request.parent)
    writing = vault.writing(live.config, repository, live.spec.id, "checkpoint", parent=request.base)
    phases.end("plan")

    def stored(phase: str, done: int, total: int) -> None:
        cancel.check()
        progress(phase, done, total)

    progress("prepare", 0, 0)
    with ExitStack() as stack:
        writer = stack.enter_context(writing)
        files = stack.enter_context(
            trees.ahead(live, writer, parent=request.base, stop=request.stop, check=cancel.check)
        )
        found = look(live)  # again: to look at many files takes a while
        rows = judge(live, found)
        plan.check(rows)
        connections = plan.connections(found)
        lock: NetworkLock = "nftables" if any(map(plan.must_be_held, connections)) else "skip"
        room = images.capacity(found.memory)
        images.check_memory(room)
        used = stack.enter_context(
            Closure(live.root_pid, live.layout, live.directory / closure.NAME, kept=live.spec.closure != "none")
        )
        used.add(found)
        later = environment.store(live, found, writer.save)
        phases.end("prepare")
        progress("dump", 0, 0)
        stack.enter_context(_continued(live, found, request))
        image_dir = stack.enter_context(ImageDir(live.runtime / "images", room))
        with Dump(
            live.config.criu,
            pid=live.root_pid,
            images=image_dir,
            work=live.directory,
            externals=live.layout.dump_externals(),
            leave_running=not request.stop,
            network_lock=lock,
            limit=_PATIENCE + found.memory / _SLOWEST,
            cancel=cancel,
        ) as dump:
            terminals.name_sessions(image_dir.path, live.root_pid)
            phases.end("dump")
            frozen = look(live)
            connections = plan.connections(frozen)  # of this instant: some may have come since the plan
            used.add(frozen)
            if lock == "skip" and any(map(plan.must_be_held, connections)):
                raise Refused("a connection was opened at this very moment", hint="try again")
            instant = Instant(
                created=runs.now(),
                host=here,
                terminal=save_terminal(),
                connections=connections,
                network={"lock": lock, "table": _table(dump) if lock == "nftables" else ""},
                privileges=privileges.saved(privileges.of_tree(frozen.processes)),
            )
            unkept = _beyond_baseline(live, image_dir)
            trees.freeze(live, files, frozen)
            phases.end("files")
            if request.stop:  # kept frozen until its successor is durable
                snapshot = save(live, request, writer, image_dir, files, used, later, instant, stored)
                phases.end("store")
            try:
                stats = dump.go()
            except Failure:
                if request.stop:
                    writer.withdraw(snapshot)
                raise
            phases.end("resume")
        if request.stop:
            live.cgroup.kill()
        else:
            snapshot = save(live, request, writer, image_dir, files, used, later, instant, stored)
            phases.end("store")
    log.info("snapshot %s: %s", snapshot.id, phases.ms)
    return Summary(
        snapshot=snapshot.id,
        sequence=snapshot.manifest.sequence,
        created=instant.created,
        stopped=request.stop,
        frozen_ms=stats.frozen_time // 1000,
        phases=phases.ms,
        bytes_raw=snapshot.size,
        bytes_stored=snapshot.stored,
        connections=connections,
        warnings=[*(plan.describe(row) for row in rows if row.kind == "fd" and row.action == "reset"), *unkept],
        network_lock=instant.network["table"],
    )


def _beyond_baseline(live: Live, image_dir: ImageDir) -> list[str]:
    """What shows that programs of the run are not kept to its --cpu-baseline."""
    level = live.spec.cpu_baseline
    found = registers.beyond(in_directory(image_dir.path), LEVELS[level]) if level else []
    return [f"--cpu-baseline {level} does not hold back {one}: it cannot be restored on such a host" for one in found]


@contextmanager
def _continued(live: Live, found: facts.Facts, request: Request) -> Iterator[None]:
    """Have the tree run on when it could not be suspended.

    CRIU takes an action script that was killed for one that agreed, and leaves the tree stopped. What was stopped
    before stays so.
    """
    try:
        yield
    except BaseException:
        if not request.stop:
            raise
        stopped = {process.pid for process in found.processes if process.state == "T"}
        for pid in set(live.cgroup.pids()) - stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        raise


def _table(dump: Dump) -> str:
    """The table that CRIU has made to hold the connections; "" when there is none.

    Other runs of this host may be dumped or suspended at the same moment: not every new table is ours.
    """
    return next(iter(nft.criu_tables() & dump.table_names()), "")


def look(live: Live) -> facts.Facts:
    """The facts of the tree as it is now."""
    known = frozenset(f"pipe:[{inode}]" for inode in stdio_pipes(live))
    try:
        return facts.gather(live.root_pid, known=known)
    except ProcessLookupError as error:
        raise Failure("the run has ended", hint="criu-agent ps -a", agent_state="not running") from error


def judge(live: Live, found: facts.Facts) -> list[PlanRow]:
    """What a checkpoint would do with each of them."""
    externals = frozenset(live.layout.dump_externals())
    rows = plan.judge(found, externals=externals, stdio_pipes=stdio_pipes(live), written=_written(live))
    return [*rows, *trees.rows(live)]


def _written(live: Live) -> dict[str, str]:
    """What the plan says of each mount that is the host's own."""
    spec = live.spec
    through = {
        path: f"{'kept by the agent, ' if path in spec.agent_state else ''}written through to the host"
        for path in spec.through
    }
    bound = {
        one.path: "a file system of the host's, written through to it" for one in live.layout.outer if not one.layered
    }
    root = {"/": "the host's own root: everything is written through"} if live.layout.host_root else {}
    return {**bound, **through, **root}
