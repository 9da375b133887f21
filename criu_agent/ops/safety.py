"""Keep what is here before a restore puts other files in its place: a snapshot of the files alone."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from criu_agent import log, runs
from criu_agent.config import Config
from criu_agent.errors import Failure
from criu_agent.fs import tree
from criu_agent.fs.listing import Left
from criu_agent.model import Contents, Snapshot, Table
from criu_agent.ops import host, live, trees, vault
from criu_agent.ops.through import Found
from criu_agent.repo.repository import Repository
from criu_agent.repo.specs import FILES_ONLY

TAG = "safety"


def keep(
    config: Config, run: runs.Run, repository: Repository, snapshot: Snapshot, found: Iterable[Found]
) -> Snapshot | None:
    """A snapshot of what is here in the places that are found to have changed, and of the run's own layer; None if
    there is nothing.

    snapshot is what is to be restored, with whose files these are compared. Failure if they cannot be read.
    """
    changed = {f"through-{number}": one for number, one in enumerate(found) if one.differences}
    roots = {name: one.place.root for name, one in changed.items()}
    for root in roots.values():
        if root.is_symlink():  # what it leads to is not ours to replace, nor to keep
            raise Failure(
                f"{root} is a symbolic link here", hint="remove it, or make the files elsewhere: --into DIR"
            )
    upper = run.directory / live.BOX / "upper"
    if upper.is_dir():
        roots["upper"] = upper
    if not roots:
        return None
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(_captured(changed[name]) if name in changed else _whole(root))
            for name, root in roots.items()
        }
        writer = stack.enter_context(
            vault.writing(config, repository, run.spec.id, "safety", parent=snapshot.id, hashes=False)
        )
        stored = {name: tree.save(captured, writer.save, name=name) for name, captured in files.items()}
        made = writer.commit(
            replace(
                snapshot.manifest,
                parent=run.state.last_snapshot or snapshot.id,
                created=runs.now(),
                reason=f"{TAG}: before the restore of {snapshot.id[:8]}",
                stopped=False,
                tags=(TAG,),
                host=host.facts(config),
                resources={
                    FILES_ONLY: {},
                    "captured": {
                        name: {"path": one.captured.path, "excluded": list(one.captured.excluded)}
                        for name, one in changed.items()
                    },
                },
            ),
            Contents(table=Table(packs=(), pieces=()), images={}, trees=stored, attachments={}),
        )
    log.info("what was here is in snapshot %s", made.id)
    return made


def _captured(found: Found) -> tree.Capture:
    """All that a restore may replace; of what is excluded only what the snapshot has all the same."""
    root, globs = found.place.root, found.captured.excluded
    left = Left(globs=globs, mounts=trees.mounts(root))
    needed = filter(found.place.excluded, found.place.entries)
    return tree.capture(root, spool=None, before=tree.prepare(root, spool=None, left=left), needed=needed)


def _whole(root: Path) -> tree.Capture:
    return tree.capture(root, spool=None)
