"""The memory of one process in the images: which pages are there, and the bytes at an address.

pagemap-PID.img lists ranges of pages in ascending order; those that are present lie in pages-ID.img in the same order
without gaps. Whatever is in no range is zeros, or still in the file that is mapped there.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from criu_agent.criu import messages_pb2 as pb
from criu_agent.criu.imagefile import Images, messages, only, read, wrong

_IN_PARENT, _PRESENT = 1, 4  # criu/include/pagemap.h: PE_PARENT, PE_PRESENT
_TOP = 1 << 64
_PIECE = 1 << 20  # bytes that are compared at once, whole pages


@dataclass(frozen=True, kw_only=True)
class _Range:
    start: int
    end: int
    at: int  # where its bytes lie in the image of pages


class Memory:
    """The pages of a process that are in the images. Nothing is read before bytes are asked for."""

    def __init__(self, images: Images, pid: int, page_size: int) -> None:
        name = f"pagemap-{pid}.img"
        self._images = images
        self._pages = f"pages-{only(images, name, pb.PagemapHead).pages_id}.img"
        self._ranges = list(_ranges(messages(images, name, pb.PagemapEntry, start=1), name, page_size))
        self._starts = [one.start for one in self._ranges]

    def read(self, start: int, end: int) -> bytes:
        """The bytes from address `start` up to `end`; zeros where no page is in the images."""
        found = bytearray(end - start)
        for one in self._overlapping(start, end):
            first, last = max(start, one.start), min(end, one.end)
            data = read(self._images, self._pages, one.at + first - one.start, last - first)
            found[first - start : last - start] = data
        return bytes(found)

    def stored(self, start: int, end: int) -> int:
        """How many of the bytes from address `start` up to `end` are in the images."""
        return sum(last - first for first, last in self.spans(start, end))

    def spans(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of the memory from address `start` up to `end` that are in the images."""
        return [(max(start, one.start), min(end, one.end)) for one in self._overlapping(start, end)]

    def _overlapping(self, start: int, end: int) -> Sequence[_Range]:
        first = max(bisect_right(self._starts, start) - 1, 0)
        last = bisect_right(self._starts, max(end - 1, 0))
        return [one for one in self._ranges[first:last] if one.start < end and start < one.end]


def changed_pages(before: Memory, after: Memory, start: int, end: int, page_size: int) -> int:
    """How many pages from address `start` up to `end` differ. Reads all of them that are in either one's images."""
    count = 0
    for first, last in _joined([*before.spans(start, end), *after.spans(start, end)]):
        for at in range(first, last, _PIECE):
            old, new = (one.read(at, min(at + _PIECE, last)) for one in (before, after))
            if old != new:
                pages = range(0, len(old), page_size)
                count += sum(old[page : page + page_size] != new[page : page + page_size] for page in pages)
    return count


def _joined(spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The same addresses, each once and in order."""
    done = 0
    for first, last in sorted(spans):
        if last > done:
            yield max(first, done), last
            done = last


def _ranges(entries: Iterator[pb.PagemapEntry], name: str, page_size: int) -> Iterator[_Range]:
    at = before = 0
    for entry in entries:
        pages = entry.nr_pages if entry.HasField("nr_pages") else entry.compat_nr_pages
        size = pages * page_size
        if entry.vaddr < before or entry.vaddr + size > _TOP:
            raise wrong(name, f"has a range at {entry.vaddr:#x} that is out of order")
        before = entry.vaddr + size
        if entry.in_parent or entry.flags & _IN_PARENT:
            raise wrong(name, "has pages that are in another image")
        if entry.flags & _PRESENT or not entry.HasField("flags"):
            yield _Range(start=entry.vaddr, end=before, at=at)
            at += size
