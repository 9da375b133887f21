"""Blobs: what goes in comes out, is stored once, and never comes out wrong."""

import io
import os
import struct
import threading
from pathlib import Path

import pytest
import zstandard
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from criu_agent.errors import Corrupt, Failure
from criu_agent.repo import chunks
from criu_agent.repo.chunks import CHUNK_SIZE, Blob, load, object_name, save, stream, verify
from criu_agent.store.memory import MemoryStore

ZEROS = bytes(CHUNK_SIZE)


def saved(store: MemoryStore, data: bytes) -> Blob:
    return save(store, io.BytesIO(data), len(data))[0]


def loaded(store: MemoryStore, blob: Blob, path: Path) -> bytes:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        load(store, blob, fd)
    finally:
        os.close(fd)
    return path.read_bytes()


def forged(store: MemoryStore, plain: bytes, frame: bytes) -> Blob:
    """A blob of one chunk whose object is `frame` in a header that fits it."""
    name = blake3(plain).hexdigest()
    store.objects[object_name(name)] = struct.pack("<I32s", len(frame), blake3(frame).digest()) + frame
    return Blob(size=len(plain), chunks=(name,))


@pytest.mark.parametrize("size", [0, 1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 20 * CHUNK_SIZE + 7])
def test_a_blob_comes_back_as_it_was(tmp_path: Path, size: int) -> None:
    store, data = MemoryStore(), os.urandom(size)
    blob = saved(store, data)
    assert blob.size == size
    assert b"".join(stream(store, blob)) == data
    assert loaded(store, blob, tmp_path / "out") == data


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([ZEROS, b"a" * CHUNK_SIZE, b"b" * CHUNK_SIZE]), max_size=12), st.binary())
def test_chunks_of_zeros_and_repeated_ones_come_back_in_order(parts: list[bytes], tail: bytes) -> None:
    store, data = MemoryStore(), b"".join(parts) + tail
    assert b"".join(stream(store, saved(store, data))) == data


def test_a_chunk_is_named_by_its_content_and_zeros_are_not_stored(tmp_path: Path) -> None:
    store, data = MemoryStore(), os.urandom(CHUNK_SIZE)
    blob = saved(store, ZEROS + data + ZEROS[:10])
    assert blob.chunks == ("", blake3(data).hexdigest(), "")
    assert store.list("") == [object_name(blob.chunks[1])]
    assert loaded(store, blob, tmp_path / "out") == ZEROS + data + ZEROS[:10]
    assert (tmp_path / "out").stat().st_blocks * 512 < 2 * CHUNK_SIZE, "zeros came back as data, not as holes"


def test_what_the_store_has_is_not_written_again() -> None:
    store, data = MemoryStore(), os.urandom(5 * CHUNK_SIZE)
    _, first = save(store, io.BytesIO(data), len(data))
    assert first == sum(map(len, store.objects.values()))
    changed = data[:CHUNK_SIZE] + os.urandom(100) + data[CHUNK_SIZE + 100 :]
    before = set(store.objects)
    _, added = save(store, io.BytesIO(changed), len(changed))
    (new,) = set(store.objects) - before
    assert added == len(store.objects[new])


def test_a_descriptor_is_read_from_its_position_and_stays_open(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    os.lseek(fd, 3, os.SEEK_SET)
    store = MemoryStore()
    blob, _ = save(store, fd, 4)
    assert b"".join(stream(store, blob)) == b"3456"
    assert os.read(fd, 10) == b"789"
    os.close(fd)


def test_a_source_that_ends_early_is_a_failure() -> None:
    with pytest.raises(Failure, match="ended early"):
        save(MemoryStore(), io.BytesIO(b"x" * 100), 5 * CHUNK_SIZE)


def test_progress_adds_up_to_the_size() -> None:
    store, size = MemoryStore(), 9 * CHUNK_SIZE + 5
    data = os.urandom(CHUNK_SIZE) + bytes(size - CHUNK_SIZE)
    steps: list[int] = []
    blob, _ = save(store, io.BytesIO(data), size, advance=steps.append)
    assert (sum(steps), len(steps)) == (size, 10)
    again: list[int] = []
    for _piece in stream(store, blob, advance=again.append):
        pass
    assert sum(again) == size


def test_no_thread_outlives_the_call() -> None:
    store = MemoryStore()
    blob = saved(store, os.urandom(10 * CHUNK_SIZE))
    unfinished = stream(store, blob)
    next(unfinished)
    unfinished.close()  # type: ignore[attr-defined]
    assert threading.active_count() == 1


def test_a_store_that_fails_ends_the_save_with_its_error() -> None:
    class Full(MemoryStore):
        def put(self, name: str, data: bytes) -> bool:
            raise Failure("no space left")

    with pytest.raises(Failure, match="no space left"):
        save(Full(), io.BytesIO(os.urandom(50 * CHUNK_SIZE)), 50 * CHUNK_SIZE)
    assert threading.active_count() == 1


# --- damage


def small() -> tuple[MemoryStore, Blob, str]:
    store = MemoryStore()
    blob = saved(store, b"some text, some text, and more of some text" * 3)
    return store, blob, object_name(blob.chunks[0])


def refusal(store: MemoryStore, blob: Blob) -> str:
    with pytest.raises(Corrupt) as caught:
        verify(store, [blob])
    assert caught.value.exit_code == 14
    assert blob.chunks[0] in caught.value.message
    return caught.value.message.split()[-1]


def test_every_flipped_bit_of_a_chunk_is_refused() -> None:
    store, blob, name = small()
    whole = store.objects[name]
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        store.objects[name] = bytes(damaged)
        assert refusal(store, blob) in ("changed", "truncated")


def test_every_truncation_of_a_chunk_is_called_so() -> None:
    store, blob, name = small()
    whole = store.objects[name]
    for length in range(len(whole)):
        store.objects[name] = whole[:length]
        assert refusal(store, blob) == "truncated"


def test_a_missing_chunk_is_called_so() -> None:
    store, blob, name = small()
    del store.objects[name]
    assert refusal(store, blob) == "missing"


def test_a_chunk_with_something_behind_it_is_changed() -> None:
    store, blob, name = small()
    store.objects[name] += b"x"
    assert refusal(store, blob) == "changed"


def test_another_chunk_under_the_name_is_changed() -> None:
    store, blob, name = small()
    other = saved(store, b"other")
    store.objects[name] = store.objects[object_name(other.chunks[0])]
    assert refusal(store, blob) == "changed"


def test_a_decompression_bomb_is_refused_before_memory_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    blob = forged(store, b"small", zstandard.ZstdCompressor().compress(bytes(1 << 24)))

    def never(*_args: object, **_options: object) -> None:
        raise AssertionError("the bomb reached the decompressor")

    monkeypatch.setattr(chunks.zstandard, "ZstdDecompressor", never)
    assert refusal(store, blob) == "changed"


def test_a_frame_without_its_size_or_with_a_second_one_is_changed() -> None:
    plain, store = b"plain" * 100, MemoryStore()
    frame = zstandard.ZstdCompressor().compress(plain)
    sizeless = zstandard.ZstdCompressor(write_content_size=False).compress(plain)
    for bad in (sizeless, frame + frame, b"", b"no frame at all, in no way"):
        assert refusal(store, forged(store, plain, bad)) == "changed"
    verify(store, [forged(store, plain, frame)])


def test_load_writes_nothing_of_a_damaged_chunk(tmp_path: Path) -> None:
    store, blob, name = small()
    store.objects[name] = store.objects[name][:-1] + b"?"
    with pytest.raises(Corrupt):
        loaded(store, blob, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == bytes(blob.size)
