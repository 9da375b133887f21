"""The command line of a dump: each promise that depends on an option."""

from pathlib import Path
from typing import Any

import pytest

from criu_agent.criu import command

OPTIONS: dict[str, Any] = {
    "pid": 77,
    "images": Path("/run/x/images"),
    "work": Path("/state/runs/x"),
    "log_file": "dump.log",
    "externals": ["mnt[/]:root", "mnt[/a b]:through-0"],
    "stage_script": Path("/state/runs/x/criu-stage"),
    "leave_running": True,
    "network_lock": "nftables",
}


def argv(**changes: object) -> list[str]:
    return command.dump(Path("/opt/criu"), **{**OPTIONS, **changes})


def value_of(option: str, words: list[str]) -> str:
    assert words.count(option) == 1
    return words[words.index(option) + 1]


def test_it_dumps_that_tree_to_the_images_and_logs_beside_them() -> None:
    words = argv()
    assert words[:2] == ["/opt/criu", "dump"]
    assert value_of("--tree", words) == "77"
    assert value_of("--images-dir", words) == "/run/x/images"
    assert value_of("--work-dir", words) == "/state/runs/x"
    assert value_of("--log-file", words) == "dump.log"
    assert value_of("--action-script", words) == "/state/runs/x/criu-stage"


@pytest.mark.parametrize(("leave_running", "says"), [(True, "--leave-running"), (False, "--leave-stopped")])
def test_criu_never_kills_the_original_itself(leave_running: bool, says: str) -> None:
    words = argv(leave_running=leave_running)
    assert [word for word in words if word.startswith("--leave")] == [says]


@pytest.mark.parametrize("lock", ["nftables", "skip"])
def test_the_network_is_locked_as_asked(lock: str) -> None:
    assert value_of("--network-lock", argv(network_lock=lock)) == lock


def test_every_external_is_named_once_and_in_one_word() -> None:
    words = argv()
    assert [words[n + 1] for n, word in enumerate(words) if word == "--external"] == OPTIONS["externals"]
    assert "--external" not in argv(externals=[])


@pytest.mark.parametrize(
    "option", ["--shell-job", "--file-locks", "--link-remap", "--tcp-established", "--skip-in-flight"]
)
def test_what_agents_have_open_is_not_refused(option: str) -> None:
    assert argv().count(option) == 1


def test_the_administrator_s_configuration_of_criu_is_left_out() -> None:
    assert "--no-default-config" in argv()
    assert "--manage-cgroups=ignore" in argv()


def test_deleted_files_up_to_a_gigabyte_are_kept() -> None:
    assert int(value_of("--ghost-limit", argv())) == command.GHOST_LIMIT == 1 << 30


def test_a_dump_has_no_time_limit_of_criu_s_own() -> None:
    """It would end in the middle; the supervisor ends a dump by filling the image tmpfs."""
    assert not [word for word in argv() if word.startswith("--timeout")]
