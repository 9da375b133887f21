"""Envelopes: what was signed comes back, and nothing is decrypted, decompressed or parsed before that is known."""

from collections.abc import Callable

import pytest
import zstandard
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from criu_agent.errors import Corrupt, Failure, HostCannot
from criu_agent.repo import envelope, signed
from criu_agent.repo.envelope import open_manifest, open_register, seal_manifest, seal_register
from criu_agent.repo.secret import Secret, rotated
from tests.fakes.keys import OTHER_REPOSITORY, OTHER_RUN, RUN, secret, stranger

HEAD = f"heads/{RUN}"
DOCUMENT = {"run": RUN, "revision": 3, "snapshot": "ab" * 32, "nonce": "00" * 16}
PLAIN = b'criu-agent manifest 2\n{"run_id":"a1b2c3d4","argv":["sleep","1000"]}'


def name_of(data: bytes) -> str:
    return blake3(data).hexdigest()


def manifest(data: bytes, *, of: Secret | None = None, run: str = RUN, **options: frozenset[bytes]) -> bytes:
    return open_manifest(of or secret(), run, name_of(data), data, **options)


@settings(deadline=None, max_examples=30)
@given(st.binary(max_size=5000))
def test_a_manifest_comes_back_as_it_was(plain: bytes) -> None:
    assert manifest(seal_manifest(secret(), RUN, plain)) == plain


def test_a_register_comes_back_as_it_was_and_is_never_twice_the_same_bytes() -> None:
    one, other = (seal_register(secret(), HEAD, DOCUMENT) for _ in range(2))
    assert one != other
    assert open_register(secret(), HEAD, one) == open_register(secret(), HEAD, other) == DOCUMENT


def test_a_large_manifest_comes_back_and_is_smaller_than_it_was() -> None:
    plain = b"".join(b'["%032x",%d],' % (number * 7919, number) for number in range(100_000))
    data = seal_manifest(secret(), RUN, plain)
    assert manifest(data) == plain
    assert len(data) < len(plain) / 2


def test_nothing_that_is_plain_can_be_seen_and_lengths_are_padded() -> None:
    data = seal_manifest(secret(), RUN, PLAIN)
    assert b"sleep" not in data
    assert RUN.encode() not in data
    register = seal_register(secret(), f"tags/{RUN}/{'ab' * 32}", {"tags": ["before-deploy"], "nonce": "x"})
    assert b"deploy" not in register
    lengths = {len(seal_register(secret(), HEAD, {"a": "abcdefghijklmnop"[:length]})) for length in range(16)}
    assert len(lengths) < 8


def test_what_is_too_large_to_be_read_again_is_not_written() -> None:
    with pytest.raises(Failure, match="longer than 65536 bytes"):
        seal_register(secret(), HEAD, {"a": "x" * 70_000})
    with pytest.raises(Failure, match="longer than"):
        seal_manifest(secret(), RUN, bytes((64 << 20) + 1))


# --- damage and forgery


OBJECTS: list[tuple[bytes, Callable[[bytes], object]]] = [
    (seal_manifest(secret(), RUN, PLAIN), manifest),
    (seal_register(secret(), HEAD, DOCUMENT), lambda data: open_register(secret(), HEAD, data)),
]


@pytest.mark.parametrize(("data", "read"), OBJECTS, ids=["manifest", "register"])
def test_every_flipped_bit_is_noticed(data: bytes, read: Callable[[bytes], object]) -> None:
    """Under the name of its own bytes: the name alone would notice, too."""
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((Corrupt, HostCannot)):
            read(bytes(damaged))


@pytest.mark.parametrize(("data", "read"), OBJECTS, ids=["manifest", "register"])
def test_every_truncation_and_addition_is_noticed(data: bytes, read: Callable[[bytes], object]) -> None:
    for length in range(len(data)):
        with pytest.raises(Corrupt):
            read(data[:length])
    with pytest.raises(Corrupt):
        read(data + b"\0")


def test_a_manifest_of_another_run_or_repository_is_refused() -> None:
    data = seal_manifest(secret(), OTHER_RUN, PLAIN)
    with pytest.raises(Corrupt, match="signature is wrong"):
        manifest(data)
    with pytest.raises(Corrupt, match="signature is wrong"):
        manifest(seal_manifest(secret(1, OTHER_REPOSITORY), RUN, PLAIN))


def test_a_manifest_under_the_name_of_another_is_refused() -> None:
    one, other = seal_manifest(secret(), RUN, PLAIN), seal_manifest(secret(), RUN, PLAIN)
    for name in (name_of(one), ""):
        with pytest.raises(Corrupt, match="another manifest"):
            open_manifest(secret(), RUN, name, other)


def test_a_register_under_another_name_is_refused() -> None:
    data = seal_register(secret(), HEAD, DOCUMENT)
    for name in (f"heads/{OTHER_RUN}", f"locks/{RUN}", f"tags/{RUN}/{'ab' * 32}"):
        with pytest.raises(Corrupt, match="signature is wrong"):
            open_register(secret(), name, data)


def test_a_manifest_is_no_register_and_the_other_way_round() -> None:
    with pytest.raises(Corrupt, match="does not begin as a register"):
        open_register(secret(), HEAD, OBJECTS[0][0])
    with pytest.raises(Corrupt, match="does not begin as a manifest"):
        manifest(OBJECTS[1][0])
    changed = OBJECTS[1][0].replace(b"criu-agent register 2\n", b"criu-agent manifest 2\n")
    with pytest.raises(Corrupt, match="signature is wrong"):
        manifest(changed)


def test_what_a_stranger_signs_is_forged() -> None:
    with pytest.raises(Corrupt, match="forged") as caught:
        manifest(seal_manifest(stranger(), RUN, PLAIN))
    assert caught.value.exit_code == 14
    with pytest.raises(Corrupt, match="forged"):
        open_register(secret(), HEAD, seal_register(stranger(), HEAD, DOCUMENT))


def test_a_strangers_signature_under_our_signers_name_is_wrong() -> None:
    data, line = seal_manifest(stranger(), RUN, PLAIN), len(b"criu-agent manifest 2\n")
    forged = data[:line] + secret().current.signer + data[line + 32 :]
    with pytest.raises(Corrupt, match="signature is wrong"):
        manifest(forged)


@pytest.mark.parametrize("point", [bytes(32), b"\xff" * 32, b"\2" + bytes(31)])
def test_bytes_that_are_no_public_key_sign_nothing(point: bytes) -> None:
    assert not signed.is_signed(point, bytes(64), b"message")


def test_objects_of_old_generations_are_read_and_those_of_unknown_ones_are_not() -> None:
    old, new = secret(1), rotated(secret(1))
    assert manifest(seal_manifest(old, RUN, PLAIN), of=new) == PLAIN
    with pytest.raises(Corrupt, match="keys that this host does not know"):
        manifest(seal_manifest(new, RUN, PLAIN), of=old)


def test_a_generation_is_signed_by_its_own_signer() -> None:
    """A thief who has the keys of generation 1 alone has nothing that another generation's signature covers."""
    both = secret(2)
    crossed = Secret(repository=both.repository, generations=both.generations[:1], seed=both.seed)
    with pytest.raises(Corrupt, match="not of the generation that it names"):
        manifest(seal_manifest(crossed, RUN, PLAIN), of=both)


def test_what_a_revoked_signer_signed_is_refused() -> None:
    old, new = secret(1), rotated(secret(1))
    data, head = seal_manifest(old, RUN, PLAIN), seal_register(old, HEAD, DOCUMENT)
    revoked = frozenset({old.current.signer})
    with pytest.raises(Corrupt, match="forged"):
        manifest(data, of=new, revoked=revoked)
    with pytest.raises(Corrupt, match="forged"):
        open_register(new, HEAD, head, revoked=revoked)
    assert manifest(seal_manifest(new, RUN, PLAIN), of=new, revoked=revoked) == PLAIN


def test_a_version_that_is_not_ours_is_refused_as_such() -> None:
    data = seal_manifest(secret(), RUN, PLAIN).replace(b"manifest 2", b"manifest 3")
    with pytest.raises(HostCannot, match="format 3"):
        manifest(data)


# --- what only a signer could do, and what it does not get


def signed_content(content: bytes, kind: str = "register") -> bytes:
    """A register of ours with any content inside."""
    place = signed.Place(kind=kind, repository=secret().repository, name=HEAD, what="it")
    keys = secret().keys(RUN)
    assert keys is not None
    salt, bound_to = bytes(32), place.context + (1).to_bytes(4, "big")
    cipher = envelope.AESGCM(envelope.object_key(keys.register, salt, bound_to))
    body = (1).to_bytes(4, "big") + salt + cipher.encrypt(bytes(12), content, bound_to)
    return signed.sign(place, secret().seed, body)


def framed(frame: bytes) -> bytes:
    return len(frame).to_bytes(4, "big") + frame


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\0",
        b"\0\0\0\x09short",
        b"\xff\xff\xff\xffshort",
        framed(b""),
        framed(b"no frame at all"),
        framed(zstandard.compress(bytes(1 << 24))),  # a bomb
        framed(zstandard.ZstdCompressor(write_content_size=False).compress(b"{}")),
        framed(zstandard.compress(b"{}") * 2),
        framed(zstandard.compress(b"{}")[:-1]),
        framed(zstandard.compress(b"[]")),
        framed(zstandard.compress(b'{"a":1,"a":2}')),
        framed(zstandard.compress(b"[" * 60_000)),
        framed(zstandard.compress(b"\xff")),
        framed(zstandard.compress(b'{"a":NaN}')),
    ],
)
def test_hostile_content_is_refused_even_if_it_is_signed(content: bytes) -> None:
    with pytest.raises(Corrupt):
        open_register(secret(), HEAD, signed_content(content))


def test_a_bomb_does_not_reach_the_decompressor(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_args: object, **_options: object) -> None:
        raise AssertionError("the bomb reached the decompressor")

    monkeypatch.setattr(envelope.zstandard, "ZstdDecompressor", never)
    with pytest.raises(Corrupt, match="longer than"):
        open_register(secret(), HEAD, signed_content(framed(zstandard.compress(bytes(1 << 24)))))


# --- the order of a reader


class Spy:
    """Records, in order, that something was used."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        for module, name in (
            (signed, "behind_version_line"),
            (signed, "is_signed"),
            (envelope, "AESGCM"),
            (envelope.zstandard, "get_frame_parameters"),
            (envelope.zstandard, "ZstdDecompressor"),
            (envelope, "from_json"),
        ):
            monkeypatch.setattr(module, name, self._recording(name, getattr(module, name)))

    def _recording(self, name: str, real: Callable[..., object]) -> Callable[..., object]:
        def recorded(*args: object, **options: object) -> object:
            self.seen.append(name)
            return real(*args, **options)

        return recorded


def test_a_reader_goes_in_the_order_of_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    data = seal_register(secret(), HEAD, DOCUMENT)
    spy = Spy(monkeypatch)
    open_register(secret(), HEAD, data)
    assert spy.seen == [
        "behind_version_line",
        "is_signed",
        "AESGCM",
        "get_frame_parameters",
        "ZstdDecompressor",
        "from_json",
    ]


@pytest.mark.parametrize(("data", "read"), OBJECTS, ids=["manifest", "register"])
def test_before_the_signature_is_right_nothing_is_decrypted_decompressed_or_parsed(
    monkeypatch: pytest.MonkeyPatch, data: bytes, read: Callable[[bytes], object]
) -> None:
    spy = Spy(monkeypatch)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((Corrupt, HostCannot)):
            read(bytes(damaged))
    assert set(spy.seen) == {"behind_version_line", "is_signed"}


def test_a_stranger_is_refused_before_his_signature_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    forged = seal_register(stranger(), HEAD, DOCUMENT)
    spy = Spy(monkeypatch)
    with pytest.raises(Corrupt, match="forged"):
        open_register(secret(), HEAD, forged)
    assert spy.seen == ["behind_version_line"]


def test_an_object_above_the_limit_is_not_even_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    with pytest.raises(Corrupt, match="longer than 65536"):
        open_register(secret(), HEAD, bytes(65537))
    with pytest.raises(Corrupt, match="longer than 67108864"):
        open_manifest(secret(), RUN, "00" * 32, bytes((64 << 20) + 1))
    assert spy.seen == []
