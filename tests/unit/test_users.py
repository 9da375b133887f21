"""Users and groups by name and by number."""

import os
import pwd

import pytest

from criu_agent import config as configuration
from criu_agent.linux import users

UNKNOWN = "3999999999"


def test_a_name_has_its_group_and_home() -> None:
    root = users.find("root")
    assert root.numbers == "0:0"
    assert root.environment["HOME"] == pwd.getpwuid(0).pw_dir
    assert users.find("0") == root
    assert users.find("nobody").gid == pwd.getpwnam("nobody").pw_gid


def test_a_group_is_taken_as_it_is_given() -> None:
    assert users.find("root:daemon").numbers == "0:1"
    assert users.find("nobody:7").gid == 7


def test_a_number_without_a_name_has_its_group_and_no_home() -> None:
    assert users.find(UNKNOWN).numbers == f"{UNKNOWN}:{UNKNOWN}"
    assert users.find(f"{UNKNOWN}:5").environment == {"HOME": "/"}


@pytest.mark.parametrize("text", ["", ":", "no-such-user", "0:no-such-group", "-1", "4294967295", "٣", "0:", "1.5"])
def test_who_is_not_there_is_an_error(text: str) -> None:
    with pytest.raises(LookupError):
        users.find(text)


def test_what_sudo_tells_is_believed_only_whole_and_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SUDO_")]:
        monkeypatch.delenv(name)
    assert configuration.user_behind_sudo() == ""
    monkeypatch.setenv("SUDO_UID", "1000")
    assert configuration.user_behind_sudo() == ""
    monkeypatch.setenv("SUDO_GID", "1001")
    monkeypatch.setenv("SUDO_COMMAND", "x")
    assert configuration.user_behind_sudo() == "1000:1001"
    assert not [name for name in configuration.user_environment() if name.startswith("SUDO_")]
