"""Packs: any run of segments comes back, and nothing else than what was sealed as this very pack."""

import itertools
import os
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from criu_agent.errors import Corrupt, HostCannot
from criu_agent.repo import seal
from criu_agent.repo.seal import HEADER, SEGMENT, TAG, Opener, padme, sealed_size, span
from criu_agent.repo.secret import Secret
from tests.fakes.keys import OTHER_PACK, OTHER_REPOSITORY, OTHER_RUN, PACK, RUN, secret

SMALL = 64


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of 64 bytes: what holds for them at every byte holds for large ones."""
    monkeypatch.setattr(seal, "SEGMENT", SMALL)
    monkeypatch.setattr(seal, "_STEP", SMALL + TAG)


def sealed(plain: bytes, *, of: Secret | None = None, run: str = RUN, pack: str = PACK) -> bytes:
    return made([plain], of=of, run=run, pack=pack)


def made(
    parts: Sequence[bytes | bytearray | memoryview], *, of: Secret | None = None, run: str = RUN, pack: str = PACK
) -> bytes:
    """The object of these parts, made where something else was before."""
    keys = (of or secret()).keys(run)
    assert keys is not None
    size = sum(map(len, parts))
    room = bytearray(b"x" * (sealed_size(size) + 10))
    data = bytes(seal.seal(keys, pack, parts, memoryview(room)))
    assert room.endswith(b"x" * 10)
    return data


def opened(
    data: bytes, size: int, start: int, length: int, *, of: Secret | None = None, run: str = RUN, pack: str = PACK
) -> bytes:
    """As a reader does it: the header, then the bytes of the span."""
    where = span(size, start, length)
    opener = Opener(of or secret(), run, pack, size, data[:HEADER])
    return opener.open(where, data[where.offset : where.offset + where.length])


def whole(data: bytes, size: int, **options: object) -> bytes:
    """The whole object, in one read."""
    opener = Opener(secret(), RUN, PACK, size, data)
    return opener.open(span(size, 0, size), memoryview(data)[HEADER:])


@pytest.mark.parametrize("size", [1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT, 3 * SEGMENT + 17, 16 << 20])
def test_a_pack_comes_back_as_it_was(size: int) -> None:
    plain = os.urandom(size)
    data = sealed(plain)
    assert len(data) == sealed_size(size)
    assert whole(data, size) == plain


def test_the_parts_of_a_pack_may_be_cut_anywhere() -> None:
    plain = os.urandom(3 * SEGMENT + 5)
    for cuts in ([], [0, 1], [SEGMENT], [SEGMENT - 1, SEGMENT + 1], list(range(0, len(plain), 99_999))):
        edges = [0, *cuts, len(plain)]
        parts = [plain[start:end] for start, end in itertools.pairwise(edges)]
        data = made([memoryview(parts[0]), *map(bytearray, parts[1:])])
        assert whole(data, len(plain)) == plain


@pytest.mark.usefixtures("small_segments")
@settings(deadline=None)
@given(st.binary(min_size=1, max_size=5 * SMALL), st.data())
def test_any_part_is_read_from_the_segments_that_hold_it(plain: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(plain) - 1))
    length = data.draw(st.integers(1, len(plain) - start))
    where = span(len(plain), start, length)
    got = opened(sealed(plain), len(plain), start, length)
    assert got == plain[where.first * SMALL : (where.last + 1) * SMALL]
    assert got[start - where.first * SMALL :][:length] == plain[start : start + length]
    assert where.length <= length + 2 * SMALL + TAG * (where.last - where.first + 1)


@pytest.mark.parametrize(("start", "length"), [(0, 0), (-1, 2), (0, 11), (10, 1), (5, 6)])
def test_a_span_that_does_not_lie_in_the_pack_is_a_bug_of_the_caller(start: int, length: int) -> None:
    with pytest.raises(ValueError, match="do not lie"):
        span(10, start, length)


def test_an_empty_pack_is_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="0 bytes"):
        made([b"", b""])


def test_nothing_of_the_plain_content_is_in_the_object_and_no_two_objects_are_equal() -> None:
    plain = b"a secret that must not be seen " * 1000
    one, other = sealed(plain), sealed(plain)
    assert plain[:16] not in one
    shared = sum(a == b for a, b in zip(one[HEADER:], other[HEADER:], strict=True))
    assert shared < len(one) / 64
    assert one[HEADER - 32 : HEADER] != other[HEADER - 32 : HEADER]


# --- damage


@pytest.mark.usefixtures("small_segments")
def test_every_flipped_bit_of_a_pack_is_noticed() -> None:
    plain = os.urandom(2 * SMALL + 9)
    data = sealed(plain)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((Corrupt, HostCannot)):
            opened(bytes(damaged), len(plain), 0, len(plain))


@pytest.mark.usefixtures("small_segments")
def test_every_truncation_of_a_pack_is_noticed() -> None:
    plain = os.urandom(2 * SMALL + 9)
    data = sealed(plain)
    for length in range(len(data)):
        with pytest.raises(Corrupt, match="truncated" if length >= 18 else "changed"):
            opened(data[:length], len(plain), 0, len(plain))


@pytest.mark.usefixtures("small_segments")
def test_a_pack_of_another_length_than_its_manifest_says_does_not_open() -> None:
    plain = os.urandom(3 * SMALL)
    data = sealed(plain)
    for size in (SMALL, 2 * SMALL, 3 * SMALL - 1, 2 * SMALL + 1):
        with pytest.raises(Corrupt):
            opened(data, size, 0, size)
    for size in (3 * SMALL + 1, 4 * SMALL):
        with pytest.raises(Corrupt, match="changed in segment 2"):
            opened(data, size, 0, 3 * SMALL)
        with pytest.raises(Corrupt, match="truncated"):
            opened(data, size, 0, size)
    with pytest.raises(Corrupt, match="longer than its manifest says"):
        whole(data + b"x", len(plain))


@pytest.mark.usefixtures("small_segments")
def test_a_pack_that_was_cut_at_a_segment_and_given_out_as_shorter_is_noticed() -> None:
    plain = os.urandom(3 * SMALL)
    short = sealed(plain)[: sealed_size(2 * SMALL)]
    with pytest.raises(Corrupt, match="changed in segment 1"):
        opened(short, 2 * SMALL, 0, 2 * SMALL)


@pytest.mark.usefixtures("small_segments")
def test_segments_that_were_swapped_are_noticed() -> None:
    plain = os.urandom(3 * SMALL)
    data, step = sealed(plain), SMALL + TAG
    first, second, third = (data[HEADER + n * step :][:step] for n in range(3))
    for order in ([second, first, third], [first, third, second], [first, first, third], [third, third, third]):
        with pytest.raises(Corrupt):
            opened(data[:HEADER] + b"".join(order), len(plain), 0, len(plain))
    assert opened(data[:HEADER] + first + second + third, len(plain), 0, len(plain)) == plain


@pytest.mark.usefixtures("small_segments")
def test_a_segment_or_header_of_another_pack_is_noticed() -> None:
    plain = os.urandom(2 * SMALL)
    one, other = sealed(plain), sealed(plain)  # the same keys, the same id: only the salt is another one
    step = SMALL + TAG
    for mixed in (one[: HEADER + step] + other[HEADER + step :], one[:HEADER] + other[HEADER:]):
        with pytest.raises(Corrupt):
            opened(mixed, len(plain), 0, len(plain))


def test_a_pack_under_another_name_run_repository_or_secret_does_not_open() -> None:
    plain = b"plain"
    data = sealed(plain)
    assert opened(data, 5, 0, 5) == plain
    with pytest.raises(Corrupt):
        opened(data, 5, 0, 5, pack=OTHER_PACK)
    with pytest.raises(Corrupt):
        opened(data, 5, 0, 5, run=OTHER_RUN)
    with pytest.raises(Corrupt):
        opened(data, 5, 0, 5, of=secret(1, OTHER_REPOSITORY))
    with pytest.raises(Corrupt):
        opened(sealed(plain, run=OTHER_RUN), 5, 0, 5)


def test_packs_of_old_generations_open_and_name_their_pieces_with_their_own_keys() -> None:
    data = sealed(b"plain", of=secret(1))
    opener = Opener(secret(3), RUN, PACK, 5, data[:HEADER])
    assert opener.open(span(5, 0, 5), data[HEADER:]) == b"plain"
    assert opener.keys == secret(1).keys(RUN)
    newer = sealed(b"plain", of=secret(3))
    with pytest.raises(Corrupt, match="newer keys"):
        Opener(secret(1), RUN, PACK, 5, newer[:HEADER])


def test_a_pack_of_another_version_is_refused_as_such() -> None:
    with pytest.raises(HostCannot, match="format 3"):
        Opener(secret(), RUN, PACK, 5, b"criu-agent pack 3\n" + bytes(36))


# --- padding


@given(st.integers(1, 1 << 40))
def test_padding_costs_little_and_leaves_few_lengths(length: int) -> None:
    padded = padme(length)
    assert length <= padded <= length * 1.125
    assert padme(padded) == padded
    significant = len(f"{padded:b}".rstrip("0"))
    assert significant <= (length.bit_length() - 1).bit_length() + 1


def test_padding_by_the_formula_of_the_paper() -> None:
    known = {1: 1, 2: 2, 3: 3, 7: 7, 8: 8, 9: 10, 15: 16, 17: 18, 100: 104, 1000: 1024, 1_000_001: 1_015_808}
    assert {length: padme(length) for length in known} == known
    assert padme(16 << 20) == 16 << 20
