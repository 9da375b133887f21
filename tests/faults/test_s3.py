"""Every method of the S3 store against every way in which a request or its answer can be spoilt."""

import random
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from criu_agent.errors import Failure
from criu_agent.store.base import Store
from criu_agent.store.s3 import S3Store
from tests.faults import proxy as faults
from tests.faults.conftest import IMPATIENT, ONCE, Open, new_area
from tests.faults.proxy import Fault, FaultProxy
from tests.servers.base import Server

BIG = bytes(range(256)) * 4500  # above the size from which obstore is used
NOT_DONE = [faults.drop, faults.cut_request, faults.slow_down, faults.silent]
DONE = [faults.lost, faults.lost_and_silent, faults.failed_after]
SPOILT = [faults.short, faults.short_and_silent, faults.half_a_head, faults.one_line, faults.login_page]
ALL = [*NOT_DONE, *DONE, *SPOILT]
QUICK = [fault for fault in ALL if "silent" not in fault.__name__]


@dataclass(frozen=True)
class Call:
    """A method on a store that has `before` below an area; its result, and what is there then."""

    name: str
    do: Callable[[Store, str], object]
    result: object
    before: dict[str, bytes]
    after: dict[str, bytes]


TEN = b"0123456789"
CALLS = [
    Call("put", lambda s, a: s.put(f"{a}/n", b"ours"), True, {}, {"n": b"ours"}),
    Call("put big", lambda s, a: s.put(f"{a}/n", BIG), True, {}, {"n": BIG}),
    Call("put taken", lambda s, a: s.put(f"{a}/n", b"ours"), False, {"n": b"theirs"}, {"n": b"theirs"}),
    Call("put big taken", lambda s, a: s.put(f"{a}/n", BIG), False, {"n": BIG[:-1]}, {"n": BIG[:-1]}),
    Call("swap", lambda s, a: s.swap(f"{a}/n", b"old", b"ours"), True, {"n": b"old"}, {"n": b"ours"}),
    Call("swap from none", lambda s, a: s.swap(f"{a}/n", None, b"ours"), True, {}, {"n": b"ours"}),
    Call("swap lost", lambda s, a: s.swap(f"{a}/n", b"old", b"ours"), False, {"n": b"theirs"}, {"n": b"theirs"}),
    Call("get", lambda s, a: s.get(f"{a}/n", 5, offset=2), b"23456", {"n": TEN}, {"n": TEN}),
    Call("get big", lambda s, a: s.get(f"{a}/n", 1 << 21), BIG, {"n": BIG}, {"n": BIG}),
    Call("list", lambda s, a: len(s.list(f"{a}/")), 2, {"n": b"1", "o": b"22"}, {"n": b"1", "o": b"22"}),
    Call("delete", lambda s, a: s.delete(f"{a}/n"), None, {"n": b"1", "o": b"2"}, {"o": b"2"}),
]
WRITES = [call for call in CALLS if call.before != call.after]
WITH_BODY = {"get", "get big", "list"}  # their answers; one without a body cannot be shortened
each_fault = pytest.mark.parametrize("fault", ALL, ids=lambda fault: fault.__name__)


def content(store: Store, area: str) -> dict[str, bytes]:
    return {name.removeprefix(f"{area}/"): store.get(name, size) for name, size in store.list(f"{area}/").items()}


def filled(store: Store, call: Call) -> str:
    """A new area with what the call wants to find."""
    area = new_area()
    for name, data in call.before.items():
        assert store.put(f"{area}/{name}", data)
    return area


def all_at_once(work: Callable[[Call], None], calls: Iterable[Call]) -> None:
    """work(call) for each, in threads: most of the time of a fault is waiting. An error names its call."""

    def named(call: Call) -> None:
        try:
            work(call)
        except BaseException as error:
            error.add_note(f"the call: {call.name}")
            raise

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(named, call) for call in calls]:
            future.result()


@each_fault
@pytest.mark.parametrize("at", [0, 1, 2])
def test_after_one_fault_the_result_and_the_store_are_right(
    proxy: FaultProxy, direct: S3Store, behind: Open, fault: Fault, at: int
) -> None:
    def work(call: Call) -> None:
        area = filled(direct, call)
        proxy.plan[area] = [*[faults.none] * at, fault]
        assert call.do(behind(), area) == call.result
        assert content(direct, area) == call.after

    all_at_once(work, CALLS)


def test_a_burst_of_every_fault_is_outlasted(proxy: FaultProxy, direct: S3Store, behind: Open) -> None:
    def work(call: Call) -> None:
        area = filled(direct, call)
        proxy.plan[area] = [*QUICK, *[faults.slow_down] * 5, faults.late]
        assert call.do(behind(), area) == call.result
        assert content(direct, area) == call.after
        assert proxy.plan[area] == [] or call.name not in WITH_BODY

    all_at_once(work, CALLS)


@each_fault
def test_a_fault_that_stays_is_a_failure_with_a_hint_and_without_the_secret(
    proxy: FaultProxy, server: Server, direct: S3Store, behind: Open, fault: Fault
) -> None:
    failed: dict[str, Failure] = {}

    def work(call: Call) -> None:
        area = filled(direct, call)
        proxy.always[area] = fault
        try:
            assert call.do(behind(IMPATIENT), area) == call.result
            assert fault in SPOILT
        except Failure as error:
            failed[call.name] = error
        assert content(direct, area) in (call.before, call.after)

    all_at_once(work, CALLS)
    for error in failed.values():
        assert error.hint
        assert "criu-agent-tests" in error.message
        assert proxy.endpoint in error.message
        assert server.secret_key not in f"{error.message}{error.hint}{error.__cause__}"
    assert failed.keys() >= (WITH_BODY if fault in SPOILT else {call.name for call in CALLS})


def test_the_libraries_below_do_not_try_again_by_themselves(proxy: FaultProxy, direct: S3Store, behind: Open) -> None:
    def work(call: Call) -> None:
        area = filled(direct, call)
        proxy.always[area] = faults.slow_down
        with pytest.raises(Failure, match="asks to slow down"):
            call.do(behind(ONCE), area)
        assert len([seen for seen in proxy.seen if area in seen.path]) == 1

    all_at_once(work, CALLS)


def test_a_redirect_without_an_end_is_a_failure(proxy: FaultProxy, direct: S3Store, behind: Open) -> None:
    def work(call: Call) -> None:
        area = filled(direct, call)
        proxy.always[area] = faults.redirected
        with pytest.raises(Failure):
            call.do(behind(IMPATIENT), area)
        assert content(direct, area) == call.before

    all_at_once(work, CALLS)


@pytest.mark.parametrize("fault", QUICK, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_without_conditional_put_one_host_is_told_the_truth_too(
    proxy: FaultProxy, direct: S3Store, behind: Open, fault: Fault, at: int
) -> None:
    def work(call: Call) -> None:
        area = filled(direct, call)
        proxy.plan[area] = [*[faults.none] * at, fault]
        assert call.do(behind(conditional=False), area) == call.result
        assert content(direct, area) == call.after

    all_at_once(work, CALLS)


@pytest.mark.parametrize("seed", range(4))
def test_a_long_random_life_with_one_fault_in_three_ends_as_the_model_says(
    proxy: FaultProxy, direct: S3Store, behind: Open, seed: int
) -> None:
    chance = random.Random(seed)
    store, area, model = behind(), new_area(), dict[str, bytes]()
    for step in range(60):
        proxy.plan[area] = [chance.choice(QUICK) if chance.random() < 1 / 3 else faults.none for _ in range(8)]
        key, data = str(chance.randrange(3)), b"step %d of %d" % (step, seed)
        name = f"{area}/{key}"
        verb = chance.choice(["put", "swap", "stale swap", "get", "list", "delete"])
        if verb == "put":
            assert store.put(name, data) is (key not in model)
            model.setdefault(key, data)
        elif verb == "swap":
            assert store.swap(name, model.get(key), data) is True
            model[key] = data
        elif verb == "stale swap":
            assert store.swap(name, b"never was", data) is False
        elif verb == "get" and key in model:
            assert store.get(name, 100) == model[key]
        elif verb == "list":
            assert store.list(f"{area}/") == {f"{area}/{key}": len(model[key]) for key in sorted(model)}
        elif verb == "delete":
            store.delete(name)
            model.pop(key, None)
    assert content(direct, area) == model


def test_no_two_writers_ever_win_the_same_swap_whatever_is_lost(
    proxy: FaultProxy, direct: S3Store, behind: Open
) -> None:
    chance = random.Random(7)
    store, name = behind(), f"{new_area()}/r"
    direct.swap(name, None, b"0 -")
    proxy.plan[name] = [chance.choice(QUICK) if chance.random() < 1 / 4 else faults.none for _ in range(2000)]
    won: list[int] = []

    def work(number: int) -> None:
        for turn in range(8):
            old = store.get(name, 100)
            following = int(old.split()[0]) + 1
            if store.swap(name, old, b"%d %d.%d" % (following, number, turn)):
                won.append(following)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won
    assert len(won) == len(set(won))
    # One whose answer was lost, and that was replaced before it could look again, counts without having won.
    assert int(direct.get(name, 100).split()[0]) >= len(won)
