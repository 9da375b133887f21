"""What changed among the regions of memory of two snapshots: where they are and what they map.

How many of their pages have another content is told if it is asked for: it takes reading both memories.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from criu_agent.criu.description import Description, Process, Region
from criu_agent.ops.rows import Row, alive, changes, name

_PROTECTION = ((1, "r"), (2, "w"), (4, "x"))  # PROT_* of mmap(2)
_SHARED = 1  # MAP_SHARED

# changed_pages(pid, start, end): how many pages between these addresses are not the same in both.
ChangedPages = Callable[[int, int, int], int]


def memory(before: Description, after: Description, changed_pages: ChangedPages | None = None) -> Iterator[Row]:
    """Regions of the processes that are in both; without changed_pages nothing of their content.

    Of a process that has executed another program all regions are new, which is said once.
    """
    for old, new in alive(before, after):
        if _identity(old) != _identity(new):
            detail = f"executed anew, {_total(old.regions)} -> {_total(new.regions)}"
            yield Row(section="memory", change="~", what=name(new), detail=detail)
        else:
            yield from _regions(new, old.regions, new.regions, changed_pages)


def _identity(process: Process) -> tuple[str, tuple[int, int]] | None:
    return (process.program.exe, process.program.identity) if process.program else None


def _total(regions: Sequence[Region]) -> str:
    return f"{len(regions)} regions of {sum(region.size for region in regions)} bytes"


def _regions(
    process: Process, olds: Sequence[Region], news: Sequence[Region], changed_pages: ChangedPages | None
) -> Iterator[Row]:
    matched = _matched(olds, news)
    still = {old.start for old in matched.values()}
    for old in olds:
        if old.start not in still:
            yield Row(section="memory", change="-", what=_what(process, old), detail=_said(old))
    for new in news:
        was = matched.get(new.start)
        if was is None:
            yield Row(section="memory", change="+", what=_what(process, new), detail=_said(new))
        elif detail := ", ".join(filter(None, (_changed(was, new), _content(process, was, new, changed_pages)))):
            yield Row(section="memory", change="~", what=_what(process, new), detail=detail)


def _matched(olds: Sequence[Region], news: Sequence[Region]) -> Mapping[int, Region]:
    """What each new region, by its start, was before: that which begins where it does, or else ends there (the kernel
    puts a new mapping in front of an old one of the same kind and makes one of them)."""
    by_start = {old.start: old for old in olds}
    matched = {new.start: by_start.pop(new.start) for new in news if new.start in by_start}
    by_end = {old.end: old for old in by_start.values()}
    for new in news:
        if new.start not in matched and new.end in by_end and by_end[new.end].name == new.name:
            matched[new.start] = by_end.pop(new.end)
    return matched


def _changed(old: Region, new: Region) -> str:
    return changes(
        {
            "mapped": (old.name or "anonymous", new.name or "anonymous"),
            "from": (f"{old.start:x}", f"{new.start:x}"),
            "size": (old.size, new.size),
            "protection": (_protection(old), _protection(new)),
            "offset": (old.offset, new.offset),
            "flags": (f"{old.flags:#x}", f"{new.flags:#x}"),
        }
    )


def _content(process: Process, old: Region, new: Region, changed_pages: ChangedPages | None) -> str:
    start, end = max(old.start, new.start), min(old.end, new.end)
    count = changed_pages(process.pid, start, end) if changed_pages and start < end else 0
    return f"content of {count} pages{f' of {new.name}' if new.name else ''}" if count else ""


def _what(process: Process, region: Region) -> str:
    return f"{name(process)} {region.start:x}-{region.end:x}"


def _said(region: Region) -> str:
    mapped = region.name or "anonymous"
    at = f" at {region.offset}" if region.offset else ""
    return f"{_protection(region)} {mapped}{at}, {region.size} bytes"


def _protection(region: Region) -> str:
    """As in /proc/PID/maps."""
    bits = "".join(letter if region.prot & bit else "-" for bit, letter in _PROTECTION)
    return bits + ("s" if region.flags & _SHARED else "p")
