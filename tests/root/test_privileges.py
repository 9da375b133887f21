"""What the processes of a run may do is in its snapshots, and is what the restored ones may do, or there are none."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from criu_agent.linux import privileges, proc
from criu_agent.linux.privileges import Privileges
from tests.conftest import Agent, await_true
from tests.fakes import hostile
from tests.fakes.hostile import Honest, Hostile
from tests.inside import planted

# A thread with fewer capabilities than its process, a child that gave up new ones, one that is stopped, and a zombie.
PROGRAM = """
import ctypes, os, signal, struct, threading, time
libc = ctypes.CDLL(None)
def few_capabilities():
    header = struct.pack("IiI", 0x20080522, 0, 0)
    libc.syscall(126, header, struct.pack("6I", 1 << 5, 1 << 5, 0, 0, 0, 0))  # capset: CAP_KILL alone
    signal.pause()
def forked(body):
    if os.fork() == 0:
        body()
        time.sleep(1000)
threading.Thread(target=few_capabilities, daemon=True).start()
forked(lambda: libc.prctl(38, 1, 0, 0, 0))  # PR_SET_NO_NEW_PRIVS
forked(lambda: os.kill(os.getpid(), signal.SIGSTOP))
forked(lambda: os.setgroups([3, 2]))
forked(lambda: os._exit(0))
time.sleep(0.2)
print("ready", flush=True)
n = 0
while True:
    n += 1
    time.sleep(0.05)
"""


def start(agent: Agent) -> None:
    (agent.workdir / "program.py").write_text(PROGRAM)
    agent("run", "-d", "--name", "many", "--", "python3", "program.py")
    await_true(lambda: "ready" in agent("logs", "many").out, "all are there")


def found(agent: Agent) -> dict[int, frozenset[Privileges]]:
    return {one.box_pid: privileges.of_threads(one.pid) for one in living(agent)}


def living(agent: Agent) -> list[proc.Process]:
    return [one for one in proc.tree(agent.root_pid("many")) if one.state != "Z"]


def test_every_process_and_thread_comes_back_with_what_it_had(agent: Agent) -> None:
    start(agent)
    before = found(agent)
    assert len(before) == 5
    everything = [one for values in before.values() for one in values]
    assert {one.no_new_privs for one in everything} == {False, True}
    assert {one.seccomp for one in everything} == {2}
    assert max(map(len, before.values())) == 2
    assert (2, 3) in {one.groups for one in everything}
    agent("suspend", "many")
    agent("resume", "-d", "many")
    assert found(agent) == before
    agent("suspend", "many")
    agent.forget_everything("many")
    agent("restore", "-d", "many")
    assert found(agent) == before


def record(change: Callable[[list[dict[str, Any]]], None]) -> Callable[[Honest], Hostile]:
    def make(honest: Honest) -> Hostile:
        head, body = honest.documents()
        change(head["resources"]["privileges"])
        return hostile.of_documents(honest, head, body)

    return make


def no_capabilities(groups: list[dict[str, Any]]) -> None:
    for one in groups:
        one["capabilities"] = dict.fromkeys(one["capabilities"], "0")


def no_seccomp(groups: list[dict[str, Any]]) -> None:
    one = copy.deepcopy(groups[0])
    groups[0]["seccomp"] = 0
    groups.append(one | {"pids": []})


def test_a_tree_that_may_do_more_than_its_manifest_says_never_runs(agent: Agent) -> None:
    agent("run", "-d", "--name", "many", "--", "sh", "-c", "while :; do echo x; done >>ran")
    await_true((agent.workdir / "ran").exists, "it runs")
    agent("suspend", "many")
    before = (agent.workdir / "ran").stat().st_size
    snapshot = planted(agent, "many", record(no_seccomp))
    outcome = agent("restore", "-d", snapshot, check=False)
    assert outcome.code == 14, outcome
    assert "process 1 (criu-agent-init) was restored with other privileges than the snapshot says: " in outcome.err
    assert "seccomp mode 2 instead of 0" in outcome.err
    assert (agent.workdir / "ran").stat().st_size == before
    assert agent.state_of("many") == "suspended"


@pytest.fixture
def policy(agent: Agent, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], None]]:
    """Give the agent's commands a policy: in a mount namespace of theirs, since the host has one /etc only."""
    etc = tmp_path_factory.mktemp("etc")
    file = etc / "criu-agent/policy.toml"
    file.parent.mkdir()
    script = f'mount -t overlay etc -o lowerdir={etc}:/etc /etc && exec "$@"'
    usual = agent.program

    def write(text: str) -> None:
        file.write_text(text)
        file.chmod(0o644)
        agent.program = ["unshare", "-m", "sh", "-c", script, "sh", *usual]

    yield write
    agent.program = usual


def test_what_the_policy_of_the_host_forbids_is_refused_before_anything_is_made(
    agent: Agent, policy: Callable[[str], None]
) -> None:
    agent("run", "-d", "--name", "many", "--", "sleep", "1000")
    agent("suspend", "many")
    agent.forget_everything("many")
    policy('uids = ["1-65535"]\ncapabilities = ["CAP_KILL"]\nmounts = ["/srv"]\ndevices = ["/dev/null"]\n')
    outcome = agent("restore", "-d", "many", check=False)
    assert outcome.code == 15, outcome
    for said in ("uid 0 (process 1 and 1 more)", "CAP_SYS_ADMIN", f"writing to {agent.workdir}", "device /dev/zero"):
        assert said in outcome.err
    assert "CAP_KILL" not in outcome.err
    assert not agent.runs()
    policy("uids = [0]\n")
    agent("restore", "-d", "many")
    assert agent.state_of("many") == "running"


def test_a_snapshot_that_lies_about_its_processes_passes_the_policy_and_never_runs(
    agent: Agent, policy: Callable[[str], None]
) -> None:
    agent("run", "-d", "--name", "many", "--", "sh", "-c", "while :; do echo x; done >>ran")
    await_true((agent.workdir / "ran").exists, "it runs")
    agent("suspend", "many")
    before = (agent.workdir / "ran").stat().st_size
    snapshot = planted(agent, "many", record(no_capabilities))
    policy("capabilities = []\n")
    outcome = agent("restore", "-d", snapshot, check=False)
    assert outcome.code == 14, outcome
    assert (agent.workdir / "ran").stat().st_size == before


def test_a_policy_that_cannot_be_understood_forbids_everything(agent: Agent, policy: Callable[[str], None]) -> None:
    agent("run", "-d", "--name", "many", "--", "sleep", "1000")
    agent("suspend", "many")
    policy("uid = [0]\n")
    outcome = agent("resume", "-d", "many", check=False)
    assert outcome.code == 15
    assert "cannot understand /etc/criu-agent/policy.toml: unknown key 'uid'" in outcome.err
    assert agent.state_of("many") == "suspended"
