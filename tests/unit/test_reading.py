"""Damage never becomes a wrong byte, only what is needed is read, no frame asks for more memory than it should."""

import json
import os
import random
import threading
from pathlib import Path

import pytest
import zstandard
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from criu_agent.errors import Corrupt, Failure
from criu_agent.model import Blob, Pack, Piece, Table
from criu_agent.repo import reading, table
from criu_agent.repo.opened import Opened
from criu_agent.repo.packs import PACK, SEGMENT, Writer, padme, prefix
from criu_agent.repo.reading import Reader
from criu_agent.repo.windows import PAGE, PAGES, WINDOW
from criu_agent.store.memory import MemoryStore
from tests.fakes.vault import KEY, Vault, plain


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path)


def text(length: int) -> bytes:
    return (b"some text, some text, and more of some text " * (length // 40))[:length]


def refusal(vault: Vault, blob: Blob, path: Path) -> str:
    """How the damage is called, by all three ways to read; not a byte of it was written."""
    said = set()
    for read in (lambda: vault.load(blob, path), lambda: list(vault.reader.stream(blob)), vault.reader.verify):
        with pytest.raises(Corrupt) as caught:
            read()
        assert caught.value.exit_code == 14
        assert threading.active_count() == 1, "a generator was left to the garbage collector"
        said.add(caught.value.message)
    assert path.read_bytes() == bytes(blob.size)
    (message,) = said
    piece = vault.table.pieces[0]
    assert message.startswith(f"piece {piece.name} of pack {vault.table.packs[piece.pack].id} is ")
    return message.split()[-1]


def only(vault: Vault) -> str:
    (name,) = vault.store.objects
    return name


def test_every_flipped_bit_of_a_frame_is_changed_or_has_no_effect(vault: Vault, tmp_path: Path) -> None:
    blob = vault.save({"f": text(3000)})["f"]
    name, (piece,) = only(vault), vault.table.pieces
    whole, harmless = vault.store.objects[name], 0
    for bit in range(8 * piece.stored):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        vault.store.objects[name] = bytes(damaged)
        try:
            harmless += vault.load(blob, tmp_path / "out") == text(3000)
        except Corrupt:
            assert refusal(vault, blob, tmp_path / "out") == "changed"
            continue
    assert harmless <= 2, "zstd ignores some bits; encryption does not (tests of sealing)"


def test_every_truncation_and_a_missing_pack_are_called_so(vault: Vault, tmp_path: Path) -> None:
    blob = vault.save({"f": text(3000)})["f"]
    name, (piece,) = only(vault), vault.table.pieces
    whole = vault.store.objects[name]
    for length in range(piece.stored):
        vault.store.objects[name] = whole[:length]
        assert refusal(vault, blob, tmp_path / "out") == "truncated"
    del vault.store.objects[name]
    assert refusal(vault, blob, tmp_path / "out") == "missing"


def test_every_changed_character_of_a_table_is_corrupt_or_has_no_effect(vault: Vault, tmp_path: Path) -> None:
    data = os.urandom(WINDOW) + text(2 * WINDOW)
    blob = vault.save({"f": data})["f"]
    written = json.dumps(table.to_documents(vault.table))
    chance = random.Random(1)
    corrupt = 0
    for at in range(len(written)):
        changed = written[:at] + chance.choice("0123456789abcdef".replace(written[at], "")) + written[at + 1 :]
        try:
            packs, pieces = json.loads(changed)
        except ValueError:
            continue
        try:
            vault.table = table.from_documents(packs, pieces, "snapshot 1a2b")
            assert vault.load(blob, tmp_path / "out") == data
        except Corrupt:
            corrupt += 1
    assert corrupt > 100


def test_a_pack_under_the_name_of_another_is_changed(vault: Vault, tmp_path: Path) -> None:
    blob = vault.save({"f": text(3000)})["f"]
    first = only(vault)
    vault.store.objects[first] = bytes(plain("", [text(9000)], memoryview(b"")))
    assert refusal(vault, blob, tmp_path / "out") == "changed"


def forged(vault: Vault, content: bytes, frame: bytes, *, length: int = 0) -> Blob:
    """A blob of one piece whose frame is that, with a table that fits."""
    pack = "ab" * 16
    vault.store.objects[prefix("run") + pack] = frame
    name = blake3(content, key=KEY).hexdigest(16)
    piece = Piece(name, 0, 0, len(frame), length or len(content))
    vault.table = Table(packs=(Pack(pack, padme(len(frame))),), pieces=(piece,))
    return Blob(size=len(content), extents=((0, 0, 1),))


def test_a_frame_of_another_shape_is_changed(vault: Vault, tmp_path: Path) -> None:
    content = text(1000)
    frame = zstandard.ZstdCompressor().compress(content)
    sizeless = zstandard.ZstdCompressor(write_content_size=False).compress(content)
    magic = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(format=zstandard.FORMAT_ZSTD1_MAGICLESS)
    ).compress(content)
    for bad in (sizeless, frame + frame, frame[:-1], frame + b"x", b"no frame at all, in no way", magic):
        assert refusal(vault, forged(vault, content, bad), tmp_path / "out") == "changed"
    assert vault.load(forged(vault, content, frame), tmp_path / "out") == content


def test_a_decompression_bomb_is_refused_before_memory_is_asked_for(
    vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 24))
    window = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
    )
    wide = window.compressobj(size=3000)
    far = wide.compress(text(3000)) + wide.flush()

    class Never:
        def __init__(self, **_options: object) -> None:
            pass

        def decompress(self, *_args: object, **_options: object) -> bytes:
            raise AssertionError("it reached the decompressor")

    assert zstandard.get_frame_parameters(far).window_size >= 3000
    monkeypatch.setattr(reading.zstandard, "ZstdDecompressor", Never)
    assert refusal(vault, forged(vault, text(3000), bomb), tmp_path / "out") == "changed"


def test_only_the_needed_segments_are_read_and_each_once(vault: Vault, tmp_path: Path) -> None:
    data = os.urandom(20 * WINDOW)
    vault.save({"other": os.urandom(8 * WINDOW), "f": data, "more": os.urandom(20 * WINDOW)})
    vault.asked.clear()
    assert vault.load(vault.blobs["f"], tmp_path / "out") == data
    (pack,) = vault.table.packs
    assert vault.asked == [(pack.id, 2, 6)], "8 windows are 2 segments, and 20 windows 5, and headers"
    vault.asked.clear()
    assert b"".join(vault.reader.stream(vault.blobs["f"])) == data
    assert sorted(vault.asked) == [(pack.id, 2, 4), (pack.id, 6, 2)]


def test_a_delta_reads_only_what_it_needs_of_old_packs(vault: Vault, tmp_path: Path) -> None:
    data = bytearray(os.urandom(2 * PACK))
    vault.save({"f": bytes(data)})
    data[: 33 * WINDOW] = os.urandom(33 * WINDOW)
    data[100 * WINDOW : 127 * WINDOW] = os.urandom(27 * WINDOW)
    vault.save({"f": bytes(data)})
    vault.asked.clear()
    assert vault.load(vault.blobs["f"], tmp_path / "out") == data
    whole = sum(-(-pack.length // SEGMENT) for pack in vault.table.packs)
    assert sum(count for _, _, count in vault.asked) <= whole - 13
    assert len(vault.asked) == len({(pack, first) for pack, first, _ in vault.asked})


def test_blobs_that_lie_in_one_pack_are_read_together(vault: Vault, tmp_path: Path) -> None:
    streams = {f"core-{number}.img": os.urandom(500 + number) for number in range(50)}
    blobs = vault.save(streams)
    files = {name: open(tmp_path / name, "w+b") for name in streams}  # noqa: SIM115
    done: list[int] = []
    vault.reader.load([(blobs[name], file.fileno()) for name, file in files.items()], advance=done.append)
    for name, file in files.items():
        file.close()
        assert (tmp_path / name).read_bytes() == streams[name]
    assert len(vault.asked) == 1
    assert sum(done) == sum(map(len, streams.values()))
    reader = vault.reader
    vault.asked.clear()
    assert [b"".join(reader.stream(blob)) for blob in blobs.values()] == list(streams.values())
    assert len(vault.asked) == 1, "stream keeps what it has opened"


def test_progress_of_reading_adds_up(vault: Vault, tmp_path: Path) -> None:
    size = 9 * WINDOW + 77
    blob = vault.save({"f": os.urandom(5 * WINDOW) + bytes(2 * WINDOW) + os.urandom(size - 7 * WINDOW)})["f"]
    for read in ("load", "stream"):
        done: list[int] = []
        with open(tmp_path / "out", "w+b") as file:
            if read == "load":
                vault.reader.load([(blob, file.fileno())], advance=done.append)
            else:
                assert sum(map(len, vault.reader.stream(blob, advance=done.append))) == size
        assert sum(done) == size
    assert threading.active_count() == 1


def test_a_pack_that_is_taken_by_the_same_bytes_is_our_own_lost_answer() -> None:
    class Forgetful(MemoryStore):
        other = b""

        def put(self, name: str, data: bytes | memoryview) -> bool:
            super().put(name, data)
            self.objects[name] += self.other
            return False

    store = Forgetful()
    writer = Writer(store, "run", plain)
    writer.add(b"frame")
    writer.finish()
    assert writer.added == len(b"frame") == sum(map(len, store.objects.values()))
    store.other = b"x"
    writer.add(b"frame")
    with pytest.raises(Failure, match="another object"):
        writer.finish()


@given(st.integers(1, 1 << 40))
@settings(max_examples=500)
def test_padding_is_at_most_an_eighth_and_shows_few_lengths(length: int) -> None:
    padded = padme(length)
    assert length <= padded <= length + length // 8
    assert padme(padded) == padded
    assert padded.bit_length() - (padded & -padded).bit_length() <= padded.bit_length().bit_length()


def test_a_full_pack_needs_no_padding_beyond_its_limit() -> None:
    assert max(padme(length) for length in range(PACK - (1 << 16), PACK + 1)) == PACK


# --- tables and blobs that break a rule

PACKS = [["ab" * 16, 1000], ["cd" * 16, 2 * WINDOW]]
PIECES = [["01" * 16, 0, 0, 600, PAGE], ["02" * 16, 1, 0, WINDOW, WINDOW], ["03" * 16, 1, WINDOW, 10, 5000]]


@pytest.mark.parametrize(
    ("packs", "pieces"),
    [
        (None, PIECES),
        (PACKS, {}),
        (PACKS, [7]),
        ([["ab" * 16, 0]], []),
        ([["ab" * 16, PACK + 1]], []),
        ([["ab" * 16]], []),
        ([["AB" * 16, 5]], []),
        ([["ab/" + "a" * 29, 5]], []),
        ([["ab" * 16, 5], ["ab" * 16, 6]], []),
        ([["ab" * 16, True]], []),
        (PACKS, [["01" * 16, 2, 0, 600, PAGE]]),
        (PACKS, [["01" * 16, -1, 0, 600, PAGE]]),
        (PACKS, [["01" * 16, 0, 401, 600, PAGE]]),
        (PACKS, [["01" * 16, 0, -1, 600, PAGE]]),
        (PACKS, [["01" * 16, 0, 0, 0, PAGE]]),
        (PACKS, [["01" * 16, 0, 0, 600, 0]]),
        (PACKS, [["01" * 16, 0, 0, 600, WINDOW + 1]]),
        (PACKS, [["01" * 16, 0, 0, 600.0, PAGE]]),
        (PACKS, [["01" * 16, 0, 0, 600]]),
        (PACKS, [["01" * 15, 0, 0, 600, PAGE]]),
        (PACKS, [["01" * 16, 0, 0, 600, PAGE], ["01" * 16, 1, 0, 600, PAGE]]),
        ([], PIECES),
    ],
)
def test_a_table_that_breaks_a_rule_is_corrupt(packs: object, pieces: object) -> None:
    table.from_documents(PACKS, PIECES, "snapshot 1a2b")
    with pytest.raises(Corrupt, match="snapshot 1a2b is changed"):
        table.from_documents(packs, pieces, "snapshot 1a2b")


@pytest.mark.parametrize(
    "document",
    [
        7,
        {},
        {"size": PAGE},
        {"extents": [], "size": PAGE},
        {"extents": [-1, 0, 1], "size": 0},
        {"extents": [-1, 0, 2], "size": PAGE},
        {"extents": [-1, 0, 1], "size": PAGE + 1},
        {"extents": [-1, 1, 1], "size": PAGE},
        {"extents": [-1, 0, 1, 7], "size": PAGE},
        {"extents": [-1, 0, True], "size": PAGE},
        {"extents": [-1, 0, 1.0], "size": PAGE},
        {"extents": [-2, 0, 1], "size": PAGE},
        {"extents": [3, 0, 1], "size": PAGE},
        {"extents": [0, 1, 1], "size": PAGE},
        {"extents": [0, -1, 1], "size": PAGE},
        {"extents": [0, 0, 0, 0, 0, 1], "size": PAGE},
        {"extents": [0, 0, -1, 0, 0, 2], "size": PAGE},
        {"extents": [2, 1, 1], "size": PAGE},
        {"extents": [2, 1, 1], "size": 905},
        {"extents": [2, 0, 2, 0, 0, 1], "size": 3 * PAGE},
        {"extents": [1, 1, PAGES], "size": PAGES * PAGE},
        {"extents": [-1, 0, 1], "size": -1},
        {"extents": [-1, 0, 1 << 40], "size": 1 << 52},
    ],
)
def test_a_blob_that_breaks_a_rule_is_corrupt(document: object) -> None:
    blobs = table.Blobs(table.from_documents(PACKS, PIECES, "snapshot 1a2b"), "snapshot 1a2b")
    with pytest.raises(Corrupt, match="snapshot 1a2b is changed"):
        blobs.read(document)


def test_blobs_that_keep_the_rules_come_back_and_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    found = table.from_documents(PACKS, PIECES, "snapshot 1a2b")
    assert table.from_documents(*table.to_documents(found), "it") == found
    extents = ((-1, 0, 3), (0, 0, 1), (1, 5, 59), (2, 1, 1))
    good = Blob(size=63 * PAGE + 904, extents=extents)
    assert table.Blobs(found, "it").read(table.to_document(good)) == good
    assert table.Blobs(found, "it").read({"extents": [], "size": 0}) == Blob(size=0, extents=())
    monkeypatch.setattr(table, "EXTENTS_LIMIT", 7)
    blobs = table.Blobs(found, "it")
    blobs.read(table.to_document(good))
    with pytest.raises(Corrupt, match="too many"):
        blobs.read(table.to_document(good))


def test_a_reader_has_no_need_of_packs_that_nothing_names() -> None:
    extra = Table(packs=(Pack("ab" * 16, 5),), pieces=())

    def never(_pack: Pack, _first: int, _count: int) -> Opened:
        raise AssertionError

    Reader(table=extra, segments=never).verify()
