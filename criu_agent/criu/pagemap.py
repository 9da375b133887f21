"""Where the pages of CRIU's pages-N.img belong: its pagemap images say so (criu/pagemap.c)."""

import mmap
from pathlib import Path
from typing import NamedTuple

from google.protobuf.message import DecodeError

from criu_agent.criu import messages_pb2
from criu_agent.criu.imagefile import split
from criu_agent.errors import Corrupt, Failure
from criu_agent.model import PageRun

_PAGE = 4096  # that the repository counts in; the host's pages are one or several of them
_PRESENT = 4  # PE_PRESENT: the content of these pages is in pages-N.img


class Memory(NamedTuple):
    """What pages-N.img is of: its pagemap image, whose name is the same at every dump, and its pages' numbers."""

    pagemap: str
    runs: tuple[PageRun, ...]


def memories(images: Path) -> dict[str, Memory]:
    """By the name of the image with the pages (`pages-1.img`). Failure for a pagemap that cannot be read."""
    found: dict[str, Memory] = {}
    for path in sorted(images.glob("pagemap-*.img")):
        try:
            head, *entries = split(path.read_bytes(), path.name)
            pages = messages_pb2.PagemapHead.FromString(head).pages_id
            runs = _runs([messages_pb2.PagemapEntry.FromString(entry) for entry in entries])
        except (DecodeError, ValueError, Corrupt) as error:
            raise Failure(f"CRIU's image {path.name} cannot be read: {error}") from error
        found[f"pages-{pages}.img"] = Memory(path.name, runs)
    return found


def _runs(entries: list[messages_pb2.PagemapEntry]) -> tuple[PageRun, ...]:
    """The pages that are in the image with the pages, in their order there."""
    scale = mmap.PAGESIZE // _PAGE
    runs: list[PageRun] = []
    for entry in entries:
        if not entry.flags & _PRESENT if entry.HasField("flags") else entry.in_parent:
            continue
        first, count = entry.vaddr // _PAGE, (entry.nr_pages or entry.compat_nr_pages) * scale
        if runs and sum(runs[-1]) == first:
            runs[-1] = (runs[-1][0], runs[-1][1] + count)
        else:
            runs.append((first, count))
    return tuple(runs)
