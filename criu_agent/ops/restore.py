"""Bring a run back from a snapshot: one straight function.

manifest -> host check -> compare what is written through -> images (every byte verified) -> files -> root -> console
-> CRIU ... stage pre-resume: COMMIT -> the tree runs. Before the commit everything is undone; the run is as it was.
"""

import base64
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from criu_agent import log, runs
from criu_agent.box import mounts
from criu_agent.box.layout import Layout
from criu_agent.config import Config
from criu_agent.criu import images, mount_points, registers, terminals, timers
from criu_agent.criu import restore as criu
from criu_agent.criu.imagefile import in_directory
from criu_agent.criu.images import ImageDir
from criu_agent.errors import Failure, HostCannot, Refused
from criu_agent.fs.difference import Place, unproven
from criu_agent.fs.rebuild import rebuild
from criu_agent.linux import cpu, files
from criu_agent.model import Blob, Contents, RunState, Snapshot
from criu_agent.ops import (
    absent,
    admission,
    closure,
    environment,
    live,
    plan,
    privileges,
    safety,
    saved,
    through,
    trees,
    vault,
)
from criu_agent.repo.reading import Reader
from criu_agent.repo.repository import Repository
from criu_agent.repo.specs import has_processes
from criu_agent.term import typeahead
from criu_agent.term.console import Console, Pipes, Pty
from criu_agent.term.modes import Modes
from criu_agent.term.scrollback import Scrollback

_NEW_BOX = "box.new"
_SLOWEST = 50 << 20  # bytes a second that a restore makes at least before it is taken for stuck
_OPEN_AT_ONCE = 512  # images; a process may have 1024 descriptors where nobody has said otherwise
_NAMED = 20  # files in a line of the log
_PATIENCE = 60.0  # seconds on top of that


@dataclass(frozen=True, kw_only=True)
class Here:
    """What is to become of the files here that are written through to and have changed since the snapshot.

    into: where the working directory is made, and lies from then on; "" where it lies now.
    """

    choice: through.Choice = "refuse"
    into: str = ""


@dataclass(frozen=True, kw_only=True)
class Restored:
    """reset: the connections that had to be reset. safety: the snapshot of the files that were replaced, if any.
    warnings: what else is not as it was."""

    live: live.Live
    reset: list[Mapping[str, Any]]
    safety: str
    warnings: list[str]


def catch_up(config: Config, state: RunState, snapshot_id: str) -> RunState:
    """state, with what the repository knows of a run that has been elsewhere since: its newest snapshot.

    Else the next snapshot would have the number of one that is there.
    """
    if state.suspended_at == snapshot_id and not state.moved_to:
        return state
    repository = vault.open_repository(config, make=False)
    line = repository.snapshots(repository.read(snapshot_id).manifest.run_id).snapshots
    whole = [one for one in line if has_processes(one.manifest)]
    newest = max(whole, key=lambda one: one.manifest.sequence, default=None)
    if newest is None or newest.manifest.sequence <= state.sequence:
        return state
    return replace(
        state,
        last_snapshot=newest.id,
        last_snapshot_time=newest.manifest.created,
        last_snapshot_size=newest.size,
        sequence=newest.manifest.sequence,
    )


def restore(
    config: Config, run: runs.Run, snapshot_id: str, *, here: Here, commit: Callable[[int], None]
) -> Restored:
    """Restore the snapshot as the one running copy of `run`.

    commit(root_pid) is called when everything is there and before any of it runs: the point of no return.
    The caller is in its own mount namespace. An error before that leaves nothing but the run as it was.
    """
    repository = vault.open_repository(config, make=False)
    snapshot = repository.read(snapshot_id)
    known = admission.require_able_and_allowed(config, snapshot, run)
    tip = is_tip(run.state, snapshot)
    reset = [one for one in known.connections if plan.must_be_reset(one, tip=tip)]
    contents = repository.contents(snapshot)
    saved.check_contents(contents)
    reader = repository.reader(snapshot, contents)
    room = images.capacity(sum(blob.size for blob in contents.images.values()))
    _require_memory(room)
    proven = trees.proven(run.directory, snapshot.id)
    places = list(through.places(reader, contents, known.captured, run.spec, proven))
    found = through.look(places, run.spec, choice=here.choice, into=here.into)
    if here.choice == "refuse":
        through.require_same(found, snapshot)
    with ExitStack() as rollback:
        with ExitStack() as undo:
            image_dir = undo.enter_context(ImageDir(run.runtime / "images", room))
            _load(reader, contents.images, image_dir.path)
            _require_registers(image_dir.path, known.spec.cpu_baseline)
            terminals.give_back_controlling_terminals(image_dir.path)
            timers.wind_up_periodic_timers(image_dir.path)
            mount_points.bind_what_is_there(image_dir.path)
            scrollback = Scrollback(b"".join(reader.stream(contents.attachments["scrollback"])))
            kept = _keep(config, run, repository, snapshot, found, here.choice)
            undo.enter_context(_telling(kept))
            through.settle(found, run.spec.id, here.choice, rollback, safe=_places_of(repository, kept, run))
            layout = _rebuild_files(config, run, known.mounts, reader, contents, rollback)
            absent.stand_in(layout, image_dir.path)
            root = run.runtime / "root"
            _mount_root(reader, contents, run, layout, root)
            undo.callback(mounts.unmount_root, layout, root)
            absent.make_mount_points(layout, root)
            cgroup = live.make_cgroup(config, run.spec.id)
            rollback.callback(cgroup.remove)
            rollback.callback(cgroup.kill)
            pipes = _pipes(known.terminal, rollback)
            restored = criu.restore(
                criu.Request(
                    criu=config.criu,
                    images=image_dir.path,
                    work=run.directory,
                    root=root,
                    externals=layout.restore_externals(),
                    inherit=pipes.inherit(known.terminal) if pipes else [],
                    keep_connections=not reset,
                    network_lock=known.network_lock if tip else "skip",
                    limit=_PATIENCE + room / _SLOWEST,
                ),
                place=cgroup.add,
                kill=cgroup.kill,
                at_stage=partial(_commit_before_it_runs, commit, known),
            )
        alive = live.Live(
            config=config,
            spec=run.spec,
            layout=_adopt_files(layout),
            cgroup=cgroup,
            root_pid=restored.root_pid,
            console=_console(pipes, restored),
            scrollback=scrollback,
            modes=_modes(known.terminal),
            pending_input=known.terminal,
        )
        rollback.pop_all()
    warnings = [*through.warnings(found), *absent.warnings(layout)]
    return Restored(live=alive, reset=reset, safety=kept.id if kept else "", warnings=warnings)


def _keep(
    config: Config,
    run: runs.Run,
    repository: Repository,
    snapshot: Snapshot,
    found: list[through.Found],
    choice: through.Choice,
) -> Snapshot | None:
    """What is going to be replaced, in a snapshot of its own; None if nothing is.

    The layer of a run that has gone on since the snapshot has changed without looking.
    """
    has_gone_on = choice == "theirs" and run.state.suspended_at != snapshot.id
    if not has_gone_on and not any(one.differences for one in found):
        return None
    return safety.keep(config, run, repository, snapshot, found)


def _places_of(repository: Repository, kept: Snapshot | None, run: runs.Run) -> list[Place]:
    if kept is None:
        return []
    contents = repository.contents(kept)
    reader = repository.reader(kept, contents)
    captured = saved.captured(kept.manifest)
    places = through.places(reader, contents, captured, run.spec, lambda _: unproven)
    return [place for _, place in places]


@contextmanager
def _telling(kept: Snapshot | None) -> Iterator[None]:
    """Say of every error where to find what was here."""
    try:
        yield
    except Failure as error:
        if kept is not None:
            said = f"the files that were here are in snapshot {kept.id[:8]}, too"
            error.hint = f"{error.hint}; {said}" if error.hint else said
        raise


def _commit_before_it_runs(
    commit: Callable[[int], None], known: saved.Saved, stage: str, restored: criu.Restored
) -> None:
    if stage != "pre-resume":
        return
    if known.privileges is not None:
        privileges.compare(known.privileges, restored.root_pid)
    terminal = known.terminal
    if terminal["kind"] == "pty":
        if not restored.masters:
            raise Failure("CRIU did not give the terminal back", agent_state="not running")
        typeahead.put(restored.root_pid, restored.masters[0], base64.b64decode(terminal["unread"]))
    commit(restored.root_pid)


def is_tip(state: RunState, snapshot: Snapshot) -> bool:
    """Whether the run was stopped at this very snapshot, on this boot, and has not run since (the tip rule).

    Only then its peers' sequence numbers are those of the snapshot, and a connection may go on.
    """
    return (
        snapshot.manifest.stopped
        and state.state == "restoring"
        and state.suspended_at == snapshot.id
        and snapshot.manifest.host.boot_id == runs.boot_id()
    )


def _require_memory(room: int) -> None:
    try:
        images.check_memory(room)
    except Refused as error:
        raise HostCannot(error.message, hint="free memory on this host", agent_state="not running") from error


def _require_space(directory: Path, need: int) -> None:
    facts = os.statvfs(directory)
    have = facts.f_bavail * facts.f_frsize
    if need > have:
        raise HostCannot(
            f"the run's files need {need >> 20} MiB in {directory} and {have >> 20} MiB are free there",
            hint="free some space there, or set CRIU_AGENT_STATE_DIR to a larger file system",
            agent_state="not running",
        )


def _mount_root(reader: Reader, contents: Contents, run: runs.Run, layout: Layout, root: Path) -> None:
    """With the snapshot's own files over the host's, if any that the run uses is not the same here."""
    names = [
        name for name in (closure.NAME, environment.NAME) if _differs(reader, contents, run.directory, layout, name)
    ]
    if names:
        _require_memory(sum(closure.room(contents, name) for name in names))
    with ExitStack() as made:
        between = [made.enter_context(closure.between(reader, contents, n, run.runtime / n)) for n in names]
        mounts.mount_root(layout, root, between=between)


def _differs(reader: Reader, contents: Contents, directory: Path, layout: Layout, name: str) -> bool:
    found = closure.differing(closure.read(reader, contents, name), directory / name, layout.lower)
    if found:
        more = f", and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        log.warning("of the files that the run uses the snapshot's are taken: %s%s", ", ".join(found[:_NAMED]), more)
    return bool(found)


def _load(reader: Reader, blobs: Mapping[str, Blob], directory: Path) -> None:
    """Write the images, many at once: what lies in one pack is got once. A large tree has more than may be open."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    names = list(blobs)
    for start in range(0, len(names), _OPEN_AT_ONCE):
        with ExitStack() as opened:
            targets: list[tuple[Blob, int]] = []
            for name in names[start : start + _OPEN_AT_ONCE]:
                fd = os.open(directory / name, flags, 0o600)
                opened.callback(os.close, fd)
                targets.append((blobs[name], fd))
            reader.load(targets)


def _require_registers(directory: Path, cpu_baseline: str) -> None:
    """HostCannot for registers in use that this processor lacks: of a program that the baseline did not hold back.

    Without a baseline the processor has everything that was there.
    """
    lost = registers.beyond(in_directory(directory), cpu.read().flags) if cpu_baseline else []
    if lost:
        raise HostCannot(
            f"this host's processor lacks registers that are in use in the snapshot: {', '.join(lost)}",
            hint="that program heeds no --cpu-baseline: restore it on a processor that has them",
            agent_state="not running",
        )


def _rebuild_files(
    config: Config, run: runs.Run, mounted: Mapping[str, str], reader: Reader, contents: Contents, rollback: ExitStack
) -> Layout:
    """The upper layers of the snapshot, in a directory of their own until the run lives in it."""
    layout = live.layout(config, run.spec, directory=_NEW_BOX, mounted=mounted)
    trees = {name: saved.layer(contents, name) for name in layout.uppers()}
    _require_space(run.directory, sum(blob.size for tree in trees.values() for blob in tree.blobs))
    files.remove_tree(layout.directory)
    rollback.callback(files.remove_tree, layout.directory)
    layout.upper.mkdir(mode=0o755, parents=True)
    layout.work.mkdir(mode=0o755)
    for layer in layout.layers:
        mounts.prepare_layer(layer)
        layer.upper.mkdir(mode=0o755)
    for name, upper in layout.uppers().items():
        rebuild(trees[name], reader.stream, upper)
    mounts.hide(layout)
    return layout


def _adopt_files(new: Layout) -> Layout:
    """Put the layer that the run lives in now into the place of the old one. Its mount follows the rename.

    The run is up: whatever goes wrong here, it goes on where it is.
    """
    layout = replace(new, directory=new.directory.with_name(live.BOX))
    try:
        files.remove_tree(layout.directory)
        new.directory.rename(layout.directory)
    except (Failure, OSError) as error:
        log.warning("the run stays in %s: %s", new.directory, error)
        return new
    return layout


def _pipes(terminal: Mapping[str, Any], undo: ExitStack) -> Pipes | None:
    if terminal["kind"] != "pipes":
        return None
    pipes = Pipes.again(terminal)
    undo.callback(pipes.close)
    return pipes


def _console(pipes: Pipes | None, restored: criu.Restored) -> Console:
    if pipes is not None:
        pipes.ends.close()
        return pipes
    console, *others = restored.masters
    for fd in others:  # terminals of guests, which are not part of a snapshot
        os.close(fd)
    return Pty(console)


def _modes(terminal: Mapping[str, Any]) -> Modes:
    modes = Modes()
    modes.follow(terminal["modes"].encode("latin-1"))
    return modes
