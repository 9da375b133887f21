"""The floor: a store that shows an older state than this host has seen is not believed."""

import json
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from criu_agent.errors import Corrupt, Failure
from criu_agent.repo import hostfile
from criu_agent.repo.floor import Floor, Seen
from tests.fakes.keys import OTHER_REPOSITORY, OTHER_RUN, REPOSITORY, RUN

ONE, TWO = "01" * 32, "02" * 32


def seen(number: int, value: str = ONE) -> Seen:
    return Seen(number=number, value=value)


@pytest.fixture
def floor(tmp_path: Path) -> Floor:
    return Floor(tmp_path, REPOSITORY)


def test_a_host_that_has_seen_nothing_believes_what_it_is_shown(floor: Floor) -> None:
    floor.check_head(RUN, seen(1))
    floor.check_head(RUN, None)
    floor.check_generation(seen(5))
    assert floor.head(RUN) is None


def test_a_newer_head_raises_the_floor_and_an_older_one_is_refused(floor: Floor) -> None:
    floor.saw_head(RUN, seen(3))
    floor.saw_head(RUN, seen(4, TWO))
    assert floor.head(RUN) == seen(4, TWO)
    floor.check_head(RUN, seen(4, TWO))
    floor.check_head(RUN, seen(9))
    for older in (seen(3), seen(4, ONE), seen(0), None):
        with pytest.raises(Corrupt, match="older state than this host has seen") as caught:
            floor.check_head(RUN, older)
        assert caught.value.exit_code == 14
        assert "number 4" in str(caught.value)
    with pytest.raises(Corrupt):
        floor.saw_head(RUN, seen(3))
    assert floor.head(RUN) == seen(4, TWO)


def test_the_user_can_allow_an_older_state(floor: Floor) -> None:
    floor.saw_head(RUN, seen(4))
    floor.saw_head(RUN, seen(2, TWO), older=True)
    assert floor.head(RUN) == seen(2, TWO)
    floor.forget_head(RUN)
    floor.forget_head(RUN)
    assert floor.head(RUN) is None


def test_runs_and_repositories_have_floors_of_their_own(floor: Floor, tmp_path: Path) -> None:
    floor.saw_head(RUN, seen(4))
    floor.check_head(OTHER_RUN, seen(1))
    Floor(tmp_path, OTHER_REPOSITORY).check_head(RUN, seen(1))
    Floor(tmp_path, REPOSITORY).check_head(RUN, seen(4))


def test_an_older_generation_of_keys_or_another_of_its_number_is_refused(floor: Floor) -> None:
    floor.saw_generation(seen(2))
    floor.saw_generation(seen(2))
    for older in (seen(1), seen(2, TWO)):
        with pytest.raises(Corrupt, match="keys"):
            floor.check_generation(older)
    floor.check_generation(seen(3, TWO))
    floor.saw_generation(seen(1, TWO), older=True)
    floor.check_generation(seen(1, TWO))


def test_a_run_may_have_the_name_of_our_own_file(floor: Floor) -> None:
    floor.saw_head("generation", seen(9))
    floor.saw_generation(seen(1))
    assert floor.head("generation") == seen(9)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([ONE, TWO])), max_size=12))
def test_the_floor_never_falls(tmp_path_factory: pytest.TempPathFactory, shown: list[tuple[int, str]]) -> None:
    floor = Floor(tmp_path_factory.mktemp("floor"), REPOSITORY)
    highest: Seen | None = None
    for number, value in shown:
        one = seen(number, value)
        believed = highest is None or one.number > highest.number or one == highest
        try:
            floor.saw_head(RUN, one)
        except Corrupt:
            assert not believed
        else:
            assert believed
            highest = one
        assert floor.head(RUN) == highest


def test_the_files_are_private_and_as_the_format_says(floor: Floor, tmp_path: Path) -> None:
    floor.saw_head(RUN, seen(4))
    floor.saw_generation(seen(2))
    directory = tmp_path / "seen" / REPOSITORY
    assert json.loads((directory / f"{RUN}.json").read_text()) == {"revision": 4, "snapshot": ONE}
    assert json.loads((directory / "generation").read_text()) == {"number": 2, "signer": ONE}
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}
    assert directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("data", [b"", b"{}", b"rubbish", b'{"revision":-1,"snapshot":""}', b'{"revision":4}'])
def test_a_damaged_floor_is_not_taken_for_none(floor: Floor, tmp_path: Path, data: bytes) -> None:
    floor.saw_head(RUN, seen(4))
    (tmp_path / "seen" / REPOSITORY / f"{RUN}.json").write_bytes(data)
    with pytest.raises(Corrupt) as caught:
        floor.check_head(RUN, seen(5))
    assert "rm " in caught.value.hint


def test_a_write_that_fails_leaves_the_floor_and_nothing_beside_it(
    floor: Floor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor.saw_head(RUN, seen(4))

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hostfile.os, "fsync", full)
    with pytest.raises(Failure, match="no space left"):
        floor.saw_head(RUN, seen(5))
    assert floor.head(RUN) == seen(4)
    assert len(list((tmp_path / "seen" / REPOSITORY).iterdir())) == 1


def test_whoever_comes_at_the_same_time_cannot_lower_it(floor: Floor) -> None:
    def see(number: int) -> None:
        try:
            floor.saw_head(RUN, seen(number))
        except Corrupt:
            assert number < 40

    threads = [threading.Thread(target=see, args=(number,)) for number in range(1, 41)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert floor.head(RUN) == seen(40)
