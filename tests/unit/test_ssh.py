"""What is passed to ssh, and what never is."""

import shlex
from pathlib import Path

import pytest

from criu_agent.errors import Usage
from criu_agent.linux.process import Completed
from criu_agent.ops import ssh


def test_a_user_and_a_host() -> None:
    to = ssh.destination("root@b.example", port=2222)
    assert (to.user, to.host, to.port) == ("root", "b.example", 2222)
    assert ssh.destination("[fe80::1%eth0]").host == "fe80::1%eth0"
    assert ssh.destination("b").user == ""


@pytest.mark.parametrize(
    "where",
    ["", "@b", "root@", "-oProxyCommand=x", "root@-oX=x", "a b", "b;reboot", "$(id)@b", "b\n", "ro ot@b", "b`id`"],
)
def test_what_could_be_taken_for_something_else_is_no_host(where: str) -> None:
    with pytest.raises(Usage):
        ssh.destination(where)


@pytest.mark.parametrize("program", ["", "-x", "criu-agent; reboot", "a b", "$(id)", "~/x"])
def test_what_a_shell_could_take_for_something_else_is_no_program(program: str) -> None:
    with pytest.raises(Usage):
        ssh.destination("b", program=program)


@pytest.mark.parametrize("name", ["with blank", "%h", "~", 'quo"te'])
def test_files_whose_names_ssh_would_take_apart_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    for option in ("identity", "known_hosts"):
        with pytest.raises(Usage):
            ssh.destination("b", **{option: str(tmp_path / name)})  # type: ignore[arg-type]
    with pytest.raises(Usage):
        ssh.destination("b", identity="/nonexistent")


def test_nobody_is_asked_no_unknown_host_trusted_nothing_forwarded(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch()
    argv = ssh.argv(ssh.destination("root@b", port=22, identity=str(key), known_hosts=str(key)), ["ps"])
    options = {argv[number + 1] for number, word in enumerate(argv) if word == "-o"}
    wanted = {"BatchMode=yes", "StrictHostKeyChecking=yes", "ForwardAgent=no", "ClearAllForwardings=yes"}
    assert wanted <= options
    assert f"UserKnownHostsFile={key}" in options
    assert any(option.startswith("ConnectTimeout=") for option in options)
    assert argv[-3:] == ["--", "b", "criu-agent ps"]


def test_the_command_is_one_word_that_a_shell_takes_apart_as_it_was() -> None:
    command = ["--repo", "/srv/it's here; $(id) `x`\n", "restore", ""]
    argv = ssh.argv(ssh.destination("b", program="/opt/x/criu-agent", sudo=True), command)
    assert shlex.split(argv[-1]) == ["sudo", "-n", "--", "/opt/x/criu-agent", *command]


def test_the_error_is_in_the_words_of_ssh() -> None:
    to = ssh.destination("root@b")
    said = b"@@@\r\nIT IS POSSIBLE\r\nHost key for b has changed and\r\nHost key verification failed.\r\n"
    error = ssh.unreachable(to, Completed(argv=(), code=255, stdout=b"", stderr=said))
    assert error.message == "cannot reach b: another host key (host key verification failed)"
    error = ssh.unreachable(to, Completed(argv=(), code=255, stdout=b"", stderr=b"ssh: connect: refused\n"))
    assert (error.message, error.hint) == ("cannot reach b: ssh: connect: refused", "try: ssh root@b true")
    error = ssh.unreachable(to, Completed(argv=(), code=-9, stdout=b"", stderr=b""))
    assert error.message == "cannot reach b: ssh ended with status -9"
