"""A run that is suspended into a real S3 gateway, and goes on from there where nothing but the key is.

The second "host" has a state directory of its own: no run, no key, nothing seen. tests/hosts has more of a host.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Agent, await_true
from tests.counting import assert_counts_on, numbers, start_counter
from tests.servers import ceph
from tests.servers.base import BUCKET, Server


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with ceph.running(tmp_path_factory.mktemp("ceph")) as server:
        yield server


@pytest.fixture
def host(agent: Agent, gateway: Server) -> Agent:
    """The first host: its repository is in the bucket."""
    agent.env |= {**gateway.environment, "CRIU_AGENT_REPOSITORY": f"s3://{BUCKET}/{agent.directory.name}"}
    return agent


def other_host(first: Agent, tmp_path: Path) -> Agent:
    directory = tmp_path / "other"
    directory.mkdir()
    made = Agent(directory)
    made.workdir = first.workdir
    made.env |= {key: first.env[key] for key in first.env if key.startswith("AWS_")}
    made.env["CRIU_AGENT_REPOSITORY"] = first.env["CRIU_AGENT_REPOSITORY"]
    return made


def test_a_bucket_is_not_made_a_repository_unasked(host: Agent) -> None:
    outcome = host("snapshots", check=False)
    assert outcome.code == 10
    assert f"criu-agent init -r {host.env['CRIU_AGENT_REPOSITORY']}" in outcome.err


def test_a_run_goes_on_from_the_bucket_where_nothing_but_the_key_is(host: Agent, tmp_path: Path) -> None:
    made = host("init", "--json").json
    assert made["conditional"] is True
    start_counter(host, megabytes=20)
    first = host("checkpoint", "counter", "--json").json_lines[-1]
    second = host("checkpoint", "counter", "--json").json_lines[-1]
    assert second["bytes_stored"] < first["bytes_stored"] / 20
    host("suspend", "counter")
    last = numbers(host)[-1]
    there = other_host(host, tmp_path)
    without = there("resume", "-d", "counter", check=False)
    assert without.code == 12, without
    assert made["repository"] in without.err
    key = tmp_path / "copied.key"
    shutil.copy(made["key_file"], key)
    key.chmod(0o600)
    host("rm", "counter")
    try:
        there("resume", "-d", "counter", "--key-file", str(key))
        await_true(lambda: numbers(there) and numbers(there)[-1] > last + 3, "it counts on there")
        here = numbers(there)
        assert here == list(range(here[0], here[0] + len(here)))
        # what it needs to be saved again it remembers
        there("checkpoint", "counter")
        listing = there("snapshots", "counter", "--json", "--key-file", str(key)).json
        assert [one["sequence"] for one in listing] == [1, 2, 3, 4]
        assert there("exec", "counter", "true").code == 0
        there("--key-file", str(key), "check", "--read-data")
        there("suspend", "counter")
        there("resume", "-d", "counter")
        await_true(lambda: there.state_of("counter") == "running", "it runs")
    finally:
        there.clean_up()


def test_the_same_host_goes_on_without_being_told_again(host: Agent) -> None:
    host("init")
    start_counter(host)
    host("suspend", "counter")
    endpoint = host.env.pop("AWS_ENDPOINT_URL")
    repository = host.env.pop("CRIU_AGENT_REPOSITORY")
    host("--endpoint-url", endpoint, "resume", "-d", "counter")
    host("checkpoint", "counter")
    assert_counts_on(host)
    host.env |= {"AWS_ENDPOINT_URL": endpoint, "CRIU_AGENT_REPOSITORY": repository}
    assert len(host("snapshots", "--json").json) == 2
