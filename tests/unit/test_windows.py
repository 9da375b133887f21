"""How streams are cut, and where CRIU says that its pages belong."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criu_agent.criu import messages_pb2
from criu_agent.criu.pagemap import Memory, memories
from criu_agent.errors import Failure
from criu_agent.repo.windows import BATCH, PAGE, PAGES, WINDOW, batches, positions, windows

RUNS = st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 200)), max_size=8)


@given(RUNS)
def test_windows_have_every_page_once_and_in_order(runs: list[tuple[int, int]]) -> None:
    cut = list(windows(sum(count for _, count in runs) * PAGE, runs))
    numbers = [window.number * PAGES + position for window in cut for position in positions(window.mask)]
    assert numbers == [first + number for first, count in runs for number in range(count)]
    assert all(window.length == window.mask.bit_count() * PAGE for window in cut)


@given(st.integers(0, 10 * BATCH))
def test_batches_are_not_longer_than_their_buffer(size: int) -> None:
    found = list(batches(windows(size, ((0, -(-size // PAGE)),))))
    assert all(0 < sum(window.length for window in batch) <= BATCH for batch in found)
    assert sum(window.length for batch in found for window in batch) == size


def test_windows_are_aligned_to_the_numbers_of_their_pages() -> None:
    cut = list(windows(10 * PAGE, ((60, 6), (127, 2), (700, 2))))
    assert [(window.number, positions(window.mask)) for window in cut] == [
        (0, (60, 61, 62, 63)),
        (1, (0, 1, 63)),
        (2, (0,)),
        (10, (60, 61)),
    ]
    (last,) = windows(PAGE + 5, ((0, 2),))
    assert last == (0, 3, PAGE + 5)
    assert WINDOW == PAGES * PAGE


# --- pagemaps


def pagemap(path: Path, pages: int, entries: list[dict[str, object]]) -> None:
    messages = [messages_pb2.PagemapHead(pages_id=pages).SerializeToString()]
    messages += [messages_pb2.PagemapEntry(**entry).SerializeToString() for entry in entries]  # type: ignore[arg-type]
    data = b"".join(struct.pack("<I", len(message)) + message for message in messages)
    path.write_bytes(struct.pack("<II", 0x54564319, 0x56084025) + data)


def test_pagemaps_say_where_pages_belong(tmp_path: Path) -> None:
    pagemap(
        tmp_path / "pagemap-17.img",
        3,
        [
            {"vaddr": 0x400000, "compat_nr_pages": 0, "flags": 4, "nr_pages": 2},
            {"vaddr": 0x402000, "compat_nr_pages": 0, "flags": 6, "nr_pages": 1},
            {"vaddr": 0x403000, "compat_nr_pages": 0, "flags": 2, "nr_pages": 9},  # lazy, its content is elsewhere
            {"vaddr": 0x7F0000000000, "compat_nr_pages": 5, "flags": 4},
            {"vaddr": 0x7F0000010000, "compat_nr_pages": 5, "flags": 1},  # in the parent
            {"vaddr": 0x7F0000020000, "compat_nr_pages": 7},  # as very old ones are
            {"vaddr": 0x7F0000030000, "compat_nr_pages": 7, "in_parent": True},
        ],
    )
    pagemap(tmp_path / "pagemap-shmem-5.img", 4, [])
    assert memories(tmp_path) == {
        "pages-3.img": Memory("pagemap-17.img", ((0x400, 3), (0x7F0000000, 5), (0x7F0000020, 7))),
        "pages-4.img": Memory("pagemap-shmem-5.img", ()),
    }


@pytest.mark.parametrize("damage", [b"", b"12345678", b"12345678\x04\0\0\0\xff\xff\xff\xff", b"12345678\x01"])
def test_a_pagemap_that_cannot_be_read_is_named(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "pagemap-1.img").write_bytes(damage)
    with pytest.raises(Failure, match=r"pagemap-1\.img"):
        memories(tmp_path)
