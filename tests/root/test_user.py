"""A run of another user than root, also where the host has no CAP_SYS_RESOURCE: then in a user namespace."""

import os
import shutil
from collections.abc import Iterator

import pytest

from criu_agent.linux import proc
from tests.conftest import TOOLS, Agent, Screen, await_true, workdir_for_everybody

USER = 65534
PERSON = 1000  # may have a name on this host or not
# In the box: Debian's sudo, and a name and the password "secret" for the person. /lib is a link that must stay one.
PASSWORD = "$6$cafe$l5B5poTswODEV4Iwo2iFjl4799qzSu7NHnDEXhRvZQnsW9ruDQRe3DivnOcJ2VDTKTxy.fn1KJ6iTdV0zNHwA."
SUDO = f"""set -e
dpkg --fsys-tarfile sudo.deb | tar -x --keep-directory-symlink -C /
getent passwd {PERSON} >/dev/null || /usr/sbin/useradd -M -u {PERSON} person
/usr/sbin/usermod -p '{PASSWORD}' "$(id -un {PERSON})"
echo "#{PERSON} ALL=(ALL) ALL" >/etc/sudoers.d/person
chmod 440 /etc/sudoers.d/person
"""
PROGRAM = """
import os, time
step = 0
with open("steps", "a", buffering=1) as steps:
    while True:
        step += 1
        steps.write(f"{os.getuid()} {os.getgid()} {step}\\n")
        time.sleep(0.05)
"""


def steps(agent: Agent) -> list[str]:
    path = agent.workdir / "steps"
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(autouse=True)
def for_everybody(agent: Agent) -> Iterator[None]:
    with workdir_for_everybody(agent):
        yield


def test_the_run_of_another_user_goes_on_through_three_generations(agent: Agent) -> None:
    (agent.workdir / "program.py").write_text(PROGRAM)
    agent("run", "-d", "--name", "other", "-u", str(USER), "--", "python3", "program.py")
    for _ in range(3):
        seen = len(steps(agent))
        await_true(lambda seen=seen: len(steps(agent)) > seen + 3, "it goes on")
        agent("suspend", "other")
        agent("resume", "-d", "other")
    assert steps(agent) == [f"{USER} {USER} {number}" for number in range(1, len(steps(agent)) + 1)]
    assert (agent.workdir / "steps").stat().st_uid == USER


def test_a_user_namespace_is_made_only_where_the_capability_is_missing(agent: Agent) -> None:
    agent("run", "-d", "--name", "other", "-u", str(USER), "--", "sleep", "1000")
    inside = os.stat(f"/proc/{agent.root_pid('other')}/ns/user").st_ino
    own = inside == os.stat("/proc/self/ns/user").st_ino
    assert own == proc.has_sys_resource(os.getpid())


def test_a_terminal_of_another_user_comes_back(agent: Agent, screen: Screen) -> None:
    screen.agent_command(f"run --name sh -u {USER} -- bash --norc")
    screen.await_text(r"^\$")
    screen.command("X=41; id -u; tty")
    screen.await_text(rf"{USER}\n/dev/pts/0")
    agent("suspend", "sh")
    screen.await_text("sh was suspended")
    screen.agent_command("resume sh")
    screen.await_text(rf"{USER}\n/dev/pts/0")
    screen.command("echo a nap''; sleep 1000")
    screen.await_text(r"^a nap")
    screen.keys("C-c")
    screen.await_text(r"\^C\n\$")  # what is typed before it is thrown away by the terminal
    screen.command("echo got $((X + 1))")
    screen.await_text("got 42")
    assert agent("exec", "sh", "--", "id", "-u").out == f"{USER}\n"


def test_a_shell_that_waits_at_sudos_prompt_accepts_the_password_after_the_restore(
    agent: Agent, screen: Screen
) -> None:
    shutil.copy(TOOLS / "sudo.deb", agent.workdir)
    screen.agent_command(f"run --name sh -u {PERSON} -- bash --norc")
    screen.await_text(r"^\$")
    agent("exec", "-u", "root", "sh", "--", "sh", "-c", SUDO)
    screen.command("sudo sh -c 'id -u; echo made >/root/made; touch by-root'; touch by-person; echo ended")
    screen.await_text(r"password for .*:")
    agent("suspend", "sh")
    screen.await_text("sh was suspended")
    screen.agent_command("resume sh")
    screen.await_text(r"password for .*:")
    screen.command("secret")
    screen.await_text(r"^0\nended")
    agent("suspend", "sh")
    agent.forget_everything("sh")
    agent("restore", "-d", "sh")
    owners = {name: (agent.workdir / name).stat().st_uid for name in ("by-root", "by-person")}
    assert owners == {"by-root": 0, "by-person": PERSON}
    assert agent("exec", "-u", "0", "sh", "--", "stat", "-c", "%u", "/root/made").out == "0\n"
    assert not os.path.exists("/root/made")  # noqa: PTH110 - the host's


def test_owners_in_the_layer_are_the_same_after_a_restore_from_the_store_alone(agent: Agent) -> None:
    script = "touch /tmp/mine; mkdir -m 700 /tmp/own; cd /tmp/own; touch x; exec sleep 1000"
    agent("run", "-d", "--name", "other", "-u", str(PERSON), "--", "sh", "-c", script)
    upper = agent.files_of("other") / "tmp"
    await_true((upper / "own/x").exists, "it wrote")
    agent("exec", "-u", "root", "other", "--", "sh", "-c", "touch /tmp/roots; chown 33:44 /tmp/roots")
    agent("suspend", "other")
    agent.forget_everything("other")
    agent("restore", "-d", "other")
    upper = agent.files_of("other") / "tmp"
    found = {name: ((upper / name).stat().st_uid, (upper / name).stat().st_gid) for name in ("own/x", "roots")}
    group = int(agent("exec", "other", "--", "id", "-g").out)
    assert found == {"own/x": (PERSON, group), "roots": (33, 44)}


def test_a_user_by_name_has_its_groups_and_home_and_no_capabilities(agent: Agent) -> None:
    script = "echo $HOME:$USER:$LOGNAME; id -Gn; grep ^Cap /proc/self/status; grep ^Cap /proc/1/status"
    agent("run", "-d", "--name", "other", "-u", "nobody", "-e", "USER=x", "--", "sh", "-c", f"{script}; sleep 1000")
    await_true(lambda: agent("logs", "other").out.count("CapAmb") == 2, "it told")
    first, groups, *sets = agent("logs", "other").out.splitlines()
    assert first == "/nonexistent:x:nobody"
    assert groups == "nogroup"
    bounding = {line for line in sets if line.startswith("CapBnd")}
    assert all(int(line.split()[1], 16) == 0 for line in set(sets) - bounding)
    assert int(bounding.pop().split()[1], 16) > 0  # of it sudo takes what it needs


def test_the_person_who_called_through_sudo_is_the_user(agent: Agent) -> None:
    through = {"SUDO_UID": str(USER), "SUDO_GID": str(USER), "SUDO_USER": "nobody", "HOME": "/root"}
    script = "id -u; echo $HOME; env | grep -c ^SUDO_; exec sleep 1000"
    agent("run", "-d", "--name", "other", "--", "sh", "-c", script, env=through)
    await_true(lambda: agent("logs", "other").out == f"{USER}\n/nonexistent\n0\n", "it told")


def test_with_no_new_privs_no_program_gains_any_also_after_a_restore(agent: Agent) -> None:
    shutil.copy("/bin/cat", agent.workdir / "cat")
    (agent.workdir / "cat").chmod(0o4755)
    for options, uid in ([], 0), (["--no-new-privs"], USER):
        agent("run", "-d", "--name", "other", "-u", str(USER), *options, "--", "./cat", "/dev/zero")
        agent("suspend", "other")
        agent("resume", "-d", "other")
        assert [one.uids[1] for one in proc.tree(agent.root_pid("other"))] == [USER, uid]
        guest = agent("exec", "other", "--", "./cat", "/proc/self/status").out
        assert f"Uid:\t{USER}\t{uid}\t" in guest
        agent("rm", "-f", "other")
