"""The verbs of a run need not be told again where its snapshots are, nor what opens them."""

import pytest

from tests.conftest import Agent, await_true
from tests.counting import COUNTER, assert_counts_on, numbers
from tests.servers import moto
from tests.servers.base import BUCKET


def assert_nothing_is_repeated(agent: Agent, *flags: str) -> None:
    """A run with its own repository: only `init` and `run` are told which."""
    agent("init", *flags)
    (agent.workdir / "counter.py").write_text(COUNTER)
    agent("run", "-d", "--name", "counter", *flags, "--", "sh", "-c", "touch /root/kept; exec python3 counter.py")
    await_true(lambda: len(numbers(agent)) > 2, "the counter counts")
    agent("checkpoint", "counter", "--tag", "first")
    agent("suspend", "counter")
    agent("resume", "-d", "counter")
    assert_counts_on(agent)
    agent("suspend", "counter")
    agent("restore", "-d", "counter", "--at", "counter~1")
    agent("checkpoint", "counter")
    found = agent("snapshots", "counter", "--json").json
    assert len(found) == 4
    assert "/root/kept" in agent("ls", "counter:first").out
    assert agent("dump", "counter", "/root/kept").out == ""
    agent("diff", "counter~1", "counter")
    agent("tag", "counter", "--add", "last")
    agent("export", "counter:last", "--export", "file")
    agent("forget", "counter", "--keep-last", "1")
    assert [one["tags"] for one in agent("snapshots", "counter", "--json").json] == [["last"]]
    assert agent("snapshots", "--json").json == [], "without a run it is the configured repository"
    assert agent("snapshots", "--repo", str(agent.directory / "repository"), "counter", check=False).code == 10


def test_a_directory_and_a_key_file(agent: Agent) -> None:
    there = agent.directory / "there"
    there.mkdir()
    assert_nothing_is_repeated(agent, "--repo", str(there / "store"), "--key-file", str(there / "key"))
    (there / "key").rename(there / "moved")
    outcome = agent("checkpoint", "counter", check=False)
    assert outcome.code == 10
    assert f"there is no key file {there / 'key'}" in outcome.err
    assert agent.state_of("counter") == "running"
    agent("snapshots", "counter", "--key-file", str(there / "moved"))
    (there / "moved").rename(there / "key")
    agent("suspend", "counter")
    (there / "key").rename(there / "moved")
    assert agent("resume", "-d", "counter", check=False).code == 10
    assert agent.state_of("counter") == "suspended"
    agent("resume", "-d", "counter", "--key-file", str(there / "moved"))
    agent("checkpoint", "counter")  # the one that it was resumed with is remembered


def test_s3_with_its_own_service(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    with moto.running() as server:
        agent.env.update(server.environment)
        del agent.env["AWS_ENDPOINT_URL"]
        assert_nothing_is_repeated(agent, "--repo", f"s3://{BUCKET}/some/where", "--endpoint-url", server.endpoint)
        agent("rm", "-f", "counter")
