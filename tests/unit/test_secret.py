"""The secret: encoded and decoded, and the keys that come from it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criu_agent.errors import Corrupt, Failure, HostCannot
from criu_agent.repo import secret as secrets_of
from criu_agent.repo.secret import GENERATIONS, RunKeys, Secret, decode, encode, introduction, piece_name, rotated
from criu_agent.repo.signed import is_signed
from tests.fakes.keys import OTHER_REPOSITORY, OTHER_RUN, REPOSITORY, RUN, secret


def keys(of: Secret, run_id: str = RUN, generation: int | None = None) -> RunKeys:
    found = of.keys(run_id, generation)
    assert found is not None
    return found


def parts(of: RunKeys) -> set[bytes]:
    return {of.name, of.pack, of.manifest, of.register}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_secret_comes_back_as_it_was(count: int) -> None:
    assert decode(encode(secret(count)), "it") == secret(count)


def test_new_secrets_are_random_and_belong_to_their_repository() -> None:
    one, other = secrets_of.new(REPOSITORY), secrets_of.new(REPOSITORY)
    assert one.repository == REPOSITORY
    assert one.seed != other.seed
    assert one.current.master != other.current.master
    assert one.current.master != one.seed


def test_a_rotation_is_introduced_by_the_signer_before_and_keeps_old_masters() -> None:
    old = secret(2)
    new = rotated(old)
    assert new.generations[:2] == old.generations
    assert new.seed != old.seed
    assert new.current.number == 3
    message = introduction(REPOSITORY, 3, new.current.signer)
    assert is_signed(old.current.signer, new.current.introduction, message)
    assert not is_signed(old.current.signer, new.current.introduction, introduction(OTHER_REPOSITORY, 3, old.seed))
    assert decode(encode(new), "it") == new


def test_the_number_of_rotations_has_a_limit_that_is_said() -> None:
    with pytest.raises(Failure, match="127 times"):
        rotated(secret(GENERATIONS))
    assert decode(encode(secret(GENERATIONS)), "it").current.number == GENERATIONS


def test_every_purpose_run_generation_and_repository_has_keys_of_its_own() -> None:
    of = secret(2)
    others = [keys(of), keys(of, OTHER_RUN), keys(of, RUN, 1), keys(secret(2, OTHER_REPOSITORY))]
    assert len(set().union(*map(parts, others))) == 4 * len(others)
    assert keys(of) == keys(of, RUN, 2)


@pytest.mark.parametrize("number", [0, 3, 1 << 32])
def test_there_are_no_keys_of_a_generation_that_is_not_there(number: int) -> None:
    assert secret(2).keys(RUN, number) is None


def test_no_repr_shows_a_key() -> None:
    of = secret(2)
    shown = repr(of) + repr(keys(of))
    hidden = [of.seed, *(one.master for one in of.generations), *parts(keys(of))]
    assert not [key for key in hidden if repr(key) in shown or key.hex() in shown]


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_names_of_pieces_are_equal_if_the_pieces_are_and_the_key_is(one: bytes, other: bytes) -> None:
    first, second = bytes(32), bytes([1]) * 32
    assert (piece_name(first, one) == piece_name(first, other)) == (one == other)
    assert piece_name(first, one) != piece_name(second, one)
    assert len(piece_name(first, one)) == 32
    assert piece_name(first, memoryview(one)) == piece_name(first, bytearray(one)) == piece_name(first, one)


def changed(**values: object) -> bytes:
    line, _, document = encode(secret(2)).partition(b"\n")
    return line + b"\n" + json.dumps({**json.loads(document), **values}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"criu-agent secret 2\n",
        b"criu-agent secret 2\n[]",
        changed(seed="00" * 32),
        changed(seed="0g" * 32),
        changed(seed=5),
        changed(repository="../../etc"),
        changed(generations=[]),
        changed(generations={}),
        changed(generations=[5]),
        changed(generations=[{"number": 2}]),
        changed(generations=[{"number": 1}] * (GENERATIONS + 1)),
        encode(secret(2))[:-1],
    ],
)
def test_a_secret_that_is_not_as_it_should_be_is_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt) as caught:
        decode(data, "it")
    assert secret(2).seed.hex() not in str(caught.value)


def test_another_version_of_a_secret_is_refused_first() -> None:
    with pytest.raises(HostCannot, match="format 3"):
        decode(b"criu-agent secret 3\n\xff", "it")
