"""Streams become pieces in packs, and come back: the same bytes in every generation, and little is stored twice."""

import io
import os
import random
import tempfile
import threading
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from criu_agent.errors import Failure, NoSpace
from criu_agent.model import Blob, PageRun, Part, Source, Table
from criu_agent.repo import pages
from criu_agent.repo.compare import PIECES
from criu_agent.repo.packs import PACK, Writer
from criu_agent.repo.saving import Parent, Saving
from criu_agent.repo.windows import PAGE, PAGES, WINDOW
from criu_agent.store.memory import MemoryStore
from tests.fakes.vault import KEY, Vault, plain

Memory = dict[int, int]  # page number: what is in it, 0 for zeros


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path)


@cache
def page(seed: int) -> bytes:
    return random.Random(seed).randbytes(PAGE) if seed else bytes(PAGE)


def image(memory: Memory) -> tuple[bytes, tuple[PageRun, ...]]:
    """What CRIU makes of it: the pages in order, and their numbers in runs."""
    runs: list[PageRun] = []
    for number in sorted(memory):
        if runs and sum(runs[-1]) == number:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((number, 1))
    return b"".join(page(memory[number]) for number in sorted(memory)), tuple(runs)


def save_memory(vault: Vault, memory: Memory) -> bytes:
    data, runs = image(memory)
    vault.save({"m": data}, {"m": runs})
    return data


def new_pages(vault: Vault, before: Table) -> int:
    """How many pages are in pieces that the table before did not have."""
    known = {piece.name for piece in before.pieces}
    return sum(piece.plain for piece in vault.table.pieces if piece.name not in known) // PAGE


def filled(first: int, count: int, *, seed: int = 1000) -> Memory:
    return {first + number: seed + number for number in range(count)}


# --- the same bytes come back


@pytest.mark.parametrize("size", [0, 1, PAGE - 1, PAGE, WINDOW - 1, WINDOW, WINDOW + 1, 17 * WINDOW + 5000])
def test_a_blob_comes_back_as_it_was(vault: Vault, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    blob = vault.save({"f": data})["f"]
    assert blob.size == size
    assert vault.load(blob, tmp_path / "out") == data
    assert b"".join(vault.reader.stream(blob)) == data


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["set", "zero", "unmap"]),
        st.integers(30, 30 + 5 * PAGES),
        st.integers(1, 90),
        st.integers(1, 6),
    ),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(CHANGES, min_size=1, max_size=6), st.integers(0, 5))
def test_random_memory_comes_back_in_every_generation_even_if_the_page_hashes_are_lost(
    generations: list[list[tuple[str, int, int, int]]], loses: int
) -> None:
    memory: Memory = {}
    kept: list[tuple[Table, Blob, bytes]] = []
    with tempfile.TemporaryDirectory() as place:
        vault = Vault(Path(place))
        for number, changes in enumerate(generations):
            for what, first, count, seed in changes:
                for at in range(first, first + count):
                    if what == "unmap":
                        memory.pop(at, None)
                    else:
                        memory[at] = seed * at if what == "set" else 0
            if number == loses:
                vault.cache.unlink(missing_ok=True)
            expected = save_memory(vault, memory)
            kept.append((vault.table, vault.blobs["m"], expected))
        for table, blob, expected in kept:
            vault.table = table
            assert vault.load(blob, Path(place) / "out") == expected
            assert b"".join(vault.reader.stream(blob)) == expected


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3 * WINDOW), st.binary(min_size=1, max_size=9000)), max_size=5), st.data())
def test_a_file_that_is_written_cut_and_appended_comes_back(
    writes: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    content = bytearray(random.Random(1).randbytes(2 * WINDOW))
    with tempfile.TemporaryDirectory() as place:
        vault = Vault(Path(place))
        for at, new in writes:
            content[at : at + len(new)] = new
            del content[data.draw(st.integers(0, 3 * WINDOW)) or 1 :]
            blob = vault.save({"f": bytes(content)})["f"]
            assert vault.load(blob, Path(place) / "out") == content


def test_many_generations_come_back_and_no_window_is_made_of_too_many_pieces(vault: Vault, tmp_path: Path) -> None:
    chance = random.Random(5)
    memory = filled(7, 20 * PAGES)
    for generation in range(60):
        for _ in range(30):
            memory[7 + chance.randrange(20 * PAGES)] = chance.randrange(1 << 30)
        expected = save_memory(vault, memory)
        if generation % 20 == 19:
            assert vault.load(vault.blobs["m"], tmp_path / "out") == expected
    streams = pages.read(vault.cache, f"{60:064x}", KEY)
    assert streams
    windows = pages.known_windows(streams["m"], vault.table.pieces)
    most = max(len({name for name, _, _ in window.runs}) for window in windows.values())
    assert PIECES // 2 < most <= PIECES


# --- little is stored twice


def test_what_did_not_change_is_not_stored_again(vault: Vault) -> None:
    memory = filled(1 << 35, 5 * PAGES + 3)
    save_memory(vault, memory)
    first = vault.blobs
    save_memory(vault, memory)
    assert (vault.added, vault.blobs) == (0, first)


def test_only_changed_pages_are_stored_and_they_share_a_piece(vault: Vault, tmp_path: Path) -> None:
    memory = filled(0, 8 * PAGES)
    save_memory(vault, memory)
    before = vault.table
    for number in (3, 4, 5, 200, 377, 8 * PAGES - 1):
        memory[number] = 5
    expected = save_memory(vault, memory)
    assert new_pages(vault, before) == 6
    assert len(vault.table.pieces) == len(before.pieces) + 1
    assert len(vault.table.packs) == 2
    assert vault.load(vault.blobs["m"], tmp_path / "out") == expected


def test_a_heap_that_grows_in_the_middle_stores_only_what_is_new(vault: Vault, tmp_path: Path) -> None:
    memory = filled(1000, 300) | filled(5000, 300, seed=9000)
    save_memory(vault, memory)
    before = vault.table
    memory |= filled(1300, 37, seed=77000)  # the heap grows: everything after it moves in the file
    expected = save_memory(vault, memory)
    assert new_pages(vault, before) == 37
    before = vault.table
    memory[4000] = 4  # and a page appears on its own
    expected = save_memory(vault, memory)
    assert new_pages(vault, before) == 1
    assert vault.load(vault.blobs["m"], tmp_path / "out") == expected


def test_a_window_of_which_more_than_half_changed_is_stored_whole(vault: Vault) -> None:
    memory = filled(0, PAGES)
    save_memory(vault, memory)
    for changed, stored in ((32, 32), (33, 64)):
        before = vault.table
        memory |= filled(0, changed, seed=changed * 1000)
        save_memory(vault, memory)
        assert new_pages(vault, before) == stored


def test_zeros_are_not_stored_and_become_holes(vault: Vault, tmp_path: Path) -> None:
    data = bytes(WINDOW) + os.urandom(PAGE) + bytes(30 * PAGE) + os.urandom(PAGE) + bytes(4 * WINDOW + 100)
    blob = vault.save({"f": data})["f"]
    assert [piece.plain for piece in vault.table.pieces] == [2 * PAGE]
    assert vault.load(blob, tmp_path / "out") == data
    assert (tmp_path / "out").stat().st_blocks * 512 <= 3 * PAGE
    before = vault.table
    vault.save({"f": bytes(len(data))})
    assert (vault.added, vault.table.pieces) == (0, ())
    assert before.pieces


def test_equal_windows_are_one_piece_whichever_stream_they_are_in(vault: Vault) -> None:
    data = os.urandom(WINDOW)
    vault.save({"a": data + data, "b": data})
    assert len(vault.table.pieces) == 1
    assert vault.blobs["a"].extents == ((0, 0, PAGES), (0, 0, PAGES))


def test_without_the_page_hashes_whole_windows_are_compared(vault: Vault, tmp_path: Path) -> None:
    memory = filled(10, 6 * PAGES)
    save_memory(vault, memory)
    before = vault.table
    vault.cache.unlink()
    memory[100] = 1
    expected = save_memory(vault, memory)
    assert new_pages(vault, before) == PAGES
    assert vault.load(vault.blobs["m"], tmp_path / "out") == expected


@pytest.mark.parametrize("damage", ["flip", "cut", "other"])
def test_damaged_page_hashes_and_those_of_another_snapshot_are_not_used(vault: Vault, damage: str) -> None:
    save_memory(vault, filled(0, 100))
    snapshot, whole = f"{1:064x}", vault.cache.read_bytes()
    assert pages.read(vault.cache, snapshot, KEY)
    assert vault.cache.stat().st_mode & 0o777 == 0o600
    if damage == "other":
        assert pages.read(vault.cache, f"{2:064x}", KEY) is None
        assert pages.read(vault.cache, snapshot, bytes(32)) is None
        return
    for at in range(0, len(whole), 7):
        bad = whole[:at] if damage == "cut" else whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]
        vault.cache.write_bytes(bad)
        assert pages.read(vault.cache, snapshot, KEY) is None


def test_a_full_save_forgets_the_parent(vault: Vault) -> None:
    memory = filled(0, 100)
    save_memory(vault, memory)
    before = vault.table.packs
    data, runs = image(memory)
    vault.save({"m": data}, {"m": runs}, full=True)
    assert not set(vault.table.packs) & set(before)


def test_pages_that_do_not_make_the_size_are_cut_by_offset(vault: Vault, tmp_path: Path) -> None:
    data = os.urandom(3 * PAGE)
    blob = vault.save({"m": data}, {"m": ((7, 2),)})["m"]
    assert vault.load(blob, tmp_path / "out") == data


# --- the call


def test_packs_are_full_and_no_thread_outlives_the_call(vault: Vault) -> None:
    data = os.urandom(3 * PACK)
    vault.save({"f": data})
    assert threading.active_count() == 1
    assert [pack.length for pack in vault.table.packs][:3] == [PACK] * 3
    unfinished = vault.reader.stream(vault.blobs["f"])
    next(unfinished)
    unfinished.close()  # type: ignore[attr-defined]
    assert threading.active_count() == 1


def test_a_source_that_ends_early_is_a_failure() -> None:
    saving = Saving(key=KEY, writer=Writer(MemoryStore(), "run", plain))
    with pytest.raises(Failure, match="heap ended before"):
        saving.save([Source(stream="heap", size=5 * WINDOW, content=io.BytesIO(b"x" * 100))])


@pytest.mark.parametrize("size", [PAGE, 4 * PACK])
def test_a_store_that_fails_ends_the_save_with_its_error(size: int) -> None:
    class Full(MemoryStore):
        def put(self, name: str, data: bytes | memoryview) -> bool:
            raise NoSpace("no space left")

    saving = Saving(key=KEY, writer=Writer(Full(), "run", plain))

    def save() -> None:
        saving.save([Source(stream="f", size=size, content=io.BytesIO(os.urandom(size)))])
        saving.finish()

    with pytest.raises(NoSpace):
        save()
    assert threading.active_count() == 1


def test_progress_adds_up_to_the_size_and_may_stop_it() -> None:
    data, steps = os.urandom(5 * WINDOW + 9) + bytes(2 * WINDOW), list[int]()
    writer = Writer(MemoryStore(), "run", plain)
    saving = Saving(key=KEY, writer=writer)
    saving.save([Source(stream="f", size=len(data), content=io.BytesIO(data))], advance=steps.append)
    assert sum(steps) == len(data)

    def stop(_done: int) -> None:
        raise Failure("cancelled")

    for _ in range(5):  # and it can be used again: no buffer is lost
        with pytest.raises(Failure, match="cancelled"):
            saving.save([Source(stream="g", size=len(data), content=io.BytesIO(data))], advance=stop)
        assert threading.active_count() == 1


def test_a_parent_of_another_host_gives_its_pieces(tmp_path: Path) -> None:
    """No page hashes at all, only the table."""
    vault, data = Vault(tmp_path), os.urandom(4 * WINDOW)
    vault.save({"f": data})
    writer = Writer(vault.store, "run", plain)
    saving = Saving(key=KEY, writer=writer, parent=Parent(table=vault.table))
    (blob,) = saving.save([Source(stream="f", size=len(data), content=io.BytesIO(data))])
    assert saving.finish() == vault.table
    assert (writer.added, blob) == (0, vault.blobs["f"])


def taking(vault: Vault, stream: str, new: bytes, taken: list[tuple[int, Part]]) -> bytes:
    """A snapshot of one stream that is taken over but for `new`; what is read back of it."""
    size = len(new) + PAGE * sum(part.pages for _, part in taken)
    writer = Writer(vault.store, "run", plain)
    parent = Parent(table=vault.table, hashed=pages.read(vault.cache, vault._id(), KEY))
    saving = Saving(key=KEY, writer=writer, parent=parent)
    (blob,) = saving.save([Source(stream=stream, size=size, content=io.BytesIO(new), taken=tuple(taken))])
    vault.table, vault.added = saving.finish(), writer.added
    saving.remember(vault.cache, vault._id())
    return b"".join(vault.reader.stream(blob))


def test_what_the_parent_has_is_taken_over_between_what_is_new(tmp_path: Path) -> None:
    vault, data = Vault(tmp_path), os.urandom(40 * PAGE) + bytes(3 * PAGE) + os.urandom(40 * PAGE)
    old = vault.save({"f": data, "unused": os.urandom(WINDOW)})["f"]
    new = os.urandom(3 * PAGE)
    made = taking(vault, "g", new, [(1, Part(old, 38, 7)), (9, Part(old, 0, 2))])
    assert (
        made == new[:PAGE] + data[38 * PAGE : 45 * PAGE] + new[PAGE : 2 * PAGE] + data[: 2 * PAGE] + new[2 * PAGE :]
    )
    assert len(vault.table.packs) == 2
    assert 3 * PAGE <= vault.added < 4 * PAGE


def test_a_stream_that_is_taken_over_whole_keeps_its_page_hashes(tmp_path: Path) -> None:
    vault, data = Vault(tmp_path), os.urandom(40 * PAGE)
    old = vault.save({"f": data})["f"]
    assert taking(vault, "f", b"", [(0, Part(old, 0, 40))]) == data
    assert vault.added == 0
    appended = data + os.urandom(PAGE)
    vault.save({"f": appended})
    assert vault.load(vault.blobs["f"], tmp_path / "f") == appended
    assert PAGE <= vault.added < 2 * PAGE
