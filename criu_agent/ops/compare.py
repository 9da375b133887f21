"""The differences between two snapshots, section by section: pure, from what was read of each."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from criu_agent.criu.description import Description
from criu_agent.fs.entry import Entry
from criu_agent.ops import compare_memory, compare_processes
from criu_agent.ops.compare_descriptors import connections, descriptors
from criu_agent.ops.compare_files import SameContent, files
from criu_agent.ops.compare_memory import ChangedPages
from criu_agent.ops.rows import Row


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two snapshots: its processes, and its files by path (ops.contents)."""

    description: Description
    entries: Mapping[str, Entry]


def compare(
    before: Side,
    after: Side,
    same_content: SameContent,
    *,
    changed_pages: ChangedPages | None = None,
    values: bool = False,
) -> Iterator[Row]:
    """Every difference, in the order of rows.SECTIONS. values: tell the values of variables, which may be secret."""
    old, new = before.description, after.description
    yield from compare_processes.processes(old, new)
    yield from descriptors(old, new)
    yield from connections(old, new)
    yield from compare_processes.environment(old, new, values=values)
    yield from files(before.entries, after.entries, same_content)
    yield from compare_memory.memory(old, new, changed_pages)
