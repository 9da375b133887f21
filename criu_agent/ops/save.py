"""Put what a checkpoint took into the repository; the manifest last."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from criu_agent.criu import pagemap
from criu_agent.criu.images import ImageDir
from criu_agent.fs import tree
from criu_agent.model import Contents, Host, Manifest, Snapshot, Source, Table
from criu_agent.ops import automatic, closure, environment, trees
from criu_agent.ops.closure import Closure
from criu_agent.ops.live import Live, Progress
from criu_agent.repo.policy import AUTOMATIC
from criu_agent.repo.writer import Writer


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for. parent: the snapshot that the run comes from, "" if there is none."""

    stop: bool
    reason: str
    tags: tuple[str, ...]
    parent: str
    full: bool = False  # store everything anew, whatever the parent has
    automatic: bool = False  # the supervisor takes it by itself

    @property
    def base(self) -> str:
        """The snapshot that what is stored is compared with."""
        return "" if self.full else self.parent


@dataclass(frozen=True, kw_only=True)
class Terminal:
    """What the supervisor knew of the terminal in the instant of the freeze."""

    saved: dict[str, Any]
    scrollback: bytes


@dataclass(frozen=True, kw_only=True)
class Instant:
    """What was found out while the tree was frozen, besides its images and files."""

    created: str
    host: Host
    terminal: Terminal
    connections: list[dict[str, object]]
    network: dict[str, str]
    privileges: list[dict[str, Any]]


def save(
    live: Live,
    request: Request,
    writer: Writer,
    image_dir: ImageDir,
    files: trees.Captures,
    used: Closure,
    later: environment.Stored | None,
    instant: Instant,
    progress: Progress,
) -> Snapshot:
    """Store images, files and terminal, then the manifest. An error leaves packs that no snapshot names."""
    names = [path.name for path in image_dir.files()]
    in_images = sum((image_dir.path / name).stat().st_size for name in names)
    in_files = sum(capture.unread for capture in files.values())
    advance = counter("store", in_images + in_files, progress)
    images = writer.save(_images(image_dir, names), advance=advance)
    saved = {name: tree.save(one, partial(writer.save, advance=advance), name=name) for name, one in files.items()}
    saved[closure.NAME] = tree.save(used.capture(), writer.save, name=closure.NAME)
    if later is not None:
        saved[environment.NAME] = later.tree
    used.check()
    attached = {"scrollback": instant.terminal.scrollback, closure.NAME: used.list()}
    if later is not None:
        attached[environment.NAME] = later.listed
    sources = [Source(stream=name, size=len(data), content=io.BytesIO(data)) for name, data in attached.items()]
    contents = Contents(
        table=Table(packs=(), pieces=()),
        images=dict(zip(names, images, strict=True)),
        trees=saved,
        attachments=dict(zip(attached, writer.save(sources), strict=True)),
    )
    snapshot = writer.commit(_manifest(live, request, files, instant), contents)
    trees.remember(live, snapshot.id, files)
    used.remember()
    return snapshot


def _images(image_dir: ImageDir, names: Sequence[str]) -> Iterator[Source]:
    """Each image in turn. It is unlinked when the next one is asked for: its memory is free then."""
    memories = pagemap.memories(image_dir.path)
    for name in names:
        path = image_dir.path / name
        memory = memories.get(name)
        with open(path, "rb", buffering=0) as content:
            yield Source(
                stream=f"memory/{memory.pagemap}" if memory else f"image/{name}",
                size=path.stat().st_size,
                content=content,
                runs=memory.runs if memory else (),
            )
        path.unlink()


def _manifest(live: Live, request: Request, files: trees.Captures, instant: Instant) -> Manifest:
    spec = live.spec
    return Manifest(
        run_id=spec.id,
        run_name=spec.name,
        sequence=1,  # the writer knows
        parent=request.parent,
        created=instant.created,
        reason=request.reason,
        stopped=request.stop,
        argv=spec.argv,
        workdir=spec.workdir,
        labels=spec.labels,
        tags=request.tags,
        host=instant.host,
        resources={
            "run": {
                "user": spec.user,
                "user_namespace": spec.user_namespace,
                "cpu_baseline": spec.cpu_baseline,
                "no_new_privs": spec.no_new_privs,
                "tty": spec.tty,
                "stdin_open": spec.stdin_open,
                "through": list(spec.through),
                "agent_state": dict(spec.agent_state),
                "exclude": list(spec.exclude),
                "fs": spec.fs,
                "closure": spec.closure,
                **({"capture": list(spec.capture)} if spec.capture else {}),
                **({"image": spec.image} if spec.image else {}),
                "started": spec.created,
                **automatic.saved(spec),
            },
            **({AUTOMATIC: {}} if request.automatic else {}),
            "terminal": instant.terminal.saved,
            "connections": instant.connections,
            "network": instant.network,
            "captured": trees.captured(live, files),
            "privileges": instant.privileges,
            "mounts": {bind.key: bind.target for bind in live.layout.binds},
        },
    )


def counter(phase: str, total: int, progress: Progress) -> Callable[[int], None]:
    """A callback that adds up bytes and reports them, every 16 MiB and at the end."""
    done, told = 0, 0

    def advance(count: int) -> None:
        nonlocal done, told
        done += count
        if done - told >= 16 << 20 or told < total <= done:
            told = done
            progress(phase, done, total)

    return advance
