"""Put what a checkpoint took into the repository; the manifest last."""

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from criu_agent.criu.images import ImageDir
from criu_agent.fs import tree
from criu_agent.model import Blob, Host, Manifest, Snapshot, Source
from criu_agent.ops.live import Live, Progress
from criu_agent.repo.repository import Repository


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for. parent and sequence are of the run's newest snapshot and the one to be made."""

    stop: bool
    reason: str
    tags: tuple[str, ...]
    sequence: int
    parent: str


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


def save(
    live: Live,
    request: Request,
    repository: Repository,
    image_dir: ImageDir,
    files: tree.Capture,
    instant: Instant,
    progress: Progress,
) -> Snapshot:
    """Store images, files and terminal, then the manifest. An error leaves chunks that no snapshot names."""
    sizes = {path.name: path.stat().st_size for path in image_dir.files()}
    in_files = sum(entry.length for entry in files.entries)
    advance = counter("store", sum(sizes.values()) + in_files, progress)
    stored: dict[str, Blob] = {}
    for path in image_dir.files():
        with open(path, "rb", buffering=0) as image:
            stored[path.name] = repository.save(image, sizes[path.name], advance=advance)
        path.unlink()  # its memory is free for the chunks of the next one

    def store(sources: Iterable[Source]) -> list[Blob]:
        return [repository.save(source.content, source.size, advance=advance) for source in sources]

    upper = tree.save(files, store, "upper")
    scrollback = repository.save(io.BytesIO(instant.terminal.scrollback), len(instant.terminal.scrollback))
    spec = live.spec
    return repository.commit(
        Manifest(
            run_id=spec.id,
            run_name=spec.name,
            sequence=request.sequence,
            parent=request.parent,
            created=instant.created,
            reason=request.reason,
            stopped=request.stop,
            argv=spec.argv,
            workdir=spec.workdir,
            labels=spec.labels,
            tags=request.tags,
            host=instant.host,
            images=stored,
            trees={"upper": upper},
            attachments={"scrollback": scrollback},
            resources={
                "run": {
                    "user": spec.user,
                    "user_namespace": spec.user_namespace,
                    "tty": spec.tty,
                    "stdin_open": spec.stdin_open,
                    "through": list(spec.through),
                    "started": spec.created,
                },
                "terminal": instant.terminal.saved,
                "connections": instant.connections,
                "network": instant.network,
            },
        )
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
