"""What a status file says of a thread's privileges, their record in a manifest, and where two differ."""

import json
from dataclasses import replace
from typing import Any

import pytest

from criu_agent.errors import Corrupt, Failure
from criu_agent.linux import privileges as kernel
from criu_agent.linux.privileges import Privileges
from criu_agent.ops import privileges

STATUS = """Name:\tx: y
State:\tS (sleeping)
Uid:\t1000\t1000\t0\t1000
Gid:\t1001\t1001\t1001\t1001
Groups:\t1001 27 
NSpid:\t77\t5
CapInh:\t0000000000000000
CapPrm:\t0000000000000021
CapEff:\t0000000000000001
CapBnd:\t000001fffeffffff
CapAmb:\t0000000000000000
NoNewPrivs:\t1
Seccomp:\t2
"""  # noqa: W291 - the kernel puts a blank behind each group
SOME = kernel.parse(STATUS)


def test_a_status_file_is_read() -> None:
    assert replace(SOME) == Privileges(
        uids=(1000, 1000, 0, 1000),
        gids=(1001, 1001, 1001, 1001),
        groups=(27, 1001),
        capabilities=(0, 0x21, 1, 0x1FFFEFFFFFF, 0),
        no_new_privs=True,
        seccomp=2,
    )
    assert kernel.names(SOME.within_reach) == ["CAP_CHOWN", "CAP_KILL"]
    assert kernel.names(1 << 40 | 1 << 60) == ["CAP_CHECKPOINT_RESTORE", "CAP_60"]
    assert len(kernel.CAPABILITIES) == 41


def test_this_process_has_some() -> None:
    assert all(one.uids for one in kernel.of_threads(1))
    assert kernel.of_threads(1 << 22) == frozenset()


def test_a_record_is_read_as_it_was_written() -> None:
    other = replace(SOME, groups=(), no_new_privs=False)
    recorded = {1: frozenset({SOME}), 7: frozenset({SOME, other}), 9: frozenset({other})}
    documents = json.loads(json.dumps(privileges.saved(recorded)))
    assert len(documents) == 2
    assert privileges.read(documents) == recorded


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pids", [-1]),
        ("pids", "1"),
        ("pids", [True]),
        ("uids", [0, 0, 0]),
        ("gids", [0, 0, 0, 1 << 32]),
        ("groups", {}),
        ("capabilities", {}),
        ("capabilities", dict.fromkeys(kernel.SETS, "0x1")),
        ("capabilities", dict.fromkeys(kernel.SETS, "")),
        ("capabilities", dict.fromkeys(kernel.SETS, "1" * 17)),
        ("capabilities", {**dict.fromkeys(kernel.SETS, "1"), "more": "1"}),
        ("no_new_privs", 1),
        ("seccomp", "2"),
    ],
)
def test_a_record_that_nobody_writes_is_refused(key: str, value: Any) -> None:
    (document,) = privileges.saved({1: frozenset({SOME})})
    with pytest.raises(Corrupt):
        privileges.read([document | {key: value}])
    with pytest.raises(Corrupt):
        privileges.read({})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"uids": (0, 0, 0, 0)}, "uids 0 0 0 0 instead of 1000 1000 0 1000"),
        ({"gids": (0, 0, 0, 0)}, "gids 0 0 0 0 instead of 1001 1001 1001 1001"),
        ({"groups": ()}, "groups none instead of 27 1001"),
        ({"no_new_privs": False}, "no_new_privs 0 instead of 1"),
        ({"seccomp": 0}, "seccomp mode 0 instead of 2"),
        (
            {"capabilities": (0, 0x21, 2, 0x1FFFEFFFFFF, 0)},
            "effective capabilities +CAP_DAC_OVERRIDE -CAP_CHOWN",
        ),
    ],
)
def test_each_difference_is_told_with_both_values(change: dict[str, Any], said: str) -> None:
    then, now = {5: frozenset({SOME})}, {5: frozenset({replace(SOME, **change)})}
    assert list(privileges.differences(then, now)) == [(5, said)]
    assert not list(privileges.differences(then, then))


def test_a_process_or_a_thread_too_much_or_too_few_is_a_difference() -> None:
    other = replace(SOME, seccomp=0)
    then = {1: frozenset({SOME}), 2: frozenset({SOME})}
    assert list(privileges.differences(then, {1: then[1]})) == [(2, "it is missing")]
    assert list(privileges.differences({1: then[1]}, then)) == [(2, "it is not in the snapshot's record")]
    assert list(privileges.differences({1: then[1]}, {1: frozenset({SOME, other})}))
    assert list(privileges.differences({1: frozenset({SOME, other})}, {1: then[1]}))


def test_a_tree_that_is_gone_is_no_traceback() -> None:
    with pytest.raises(Failure, match="killed while it was restored"):
        privileges.compare({}, 1 << 22)
