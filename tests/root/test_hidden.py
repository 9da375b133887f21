"""criu-agent's own files are not to be seen in a box, wherever this host has them."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from criu_agent.box import mounts
from criu_agent.box.layout import Layout
from tests.conftest import Agent
from tests.counting import assert_counts_on, start_counter


@pytest.fixture
def elsewhere(agent: Agent) -> Iterator[Agent]:
    """Another host's criu-agent, with its state where the box would show the host's own files."""
    place = Path(tempfile.mkdtemp(prefix="criu-agent-test.", dir="/var/tmp"))
    made = Agent(place)
    made.env["CRIU_AGENT_REPOSITORY"] = agent.env["CRIU_AGENT_REPOSITORY"]
    try:
        yield made
    finally:
        made.clean_up()
        shutil.rmtree(place)


def bring_key(agent: Agent, elsewhere: Agent) -> None:
    """Give the other host the key of the repository, as its user would."""
    (key_file,) = agent.directory.glob("state/keys/*.key")
    elsewhere.env["CRIU_AGENT_KEY_FILE"] = str(shutil.copy(key_file, elsewhere.directory / "key"))


def test_a_snapshot_of_another_host_does_not_show_where_this_one_keeps_its_state(
    agent: Agent, elsewhere: Agent
) -> None:
    start_counter(agent)
    agent("suspend", "counter")
    bring_key(agent, elsewhere)
    elsewhere("restore", "-d", "counter")
    assert elsewhere("exec", "counter", "ls", "-A", str(elsewhere.directory / "state")).out == ""
    elsewhere("suspend", "counter")
    agent("resume", "-d", "--at", "counter", "counter")
    assert elsewhere.state_of("counter") == "suspended"
    agent("checkpoint", "counter")
    assert agent.state_of("counter") == "running"


def test_a_run_whose_work_directory_holds_the_state_of_this_host_is_refused(agent: Agent, elsewhere: Agent) -> None:
    start_counter(agent)
    agent("suspend", "counter")
    bring_key(agent, elsewhere)
    inside = agent.workdir / "state"
    outcome = elsewhere("restore", "-d", "counter", env={"CRIU_AGENT_STATE_DIR": str(inside)}, check=False)
    assert outcome.code == 15
    assert (
        f"{agent.workdir}, which the run writes through to, holds criu-agent's own files in {inside}" in outcome.err
    )
    shutil.rmtree(inside)
    agent("resume", "-d", "counter")
    assert_counts_on(agent)


def layout(tmp_path: Path, *hidden: str) -> Layout:
    made = Layout(directory=tmp_path, binds=(), hidden=hidden)
    made.upper.mkdir()
    return made


def test_a_link_in_an_upper_layer_does_not_lead_out_of_it(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    made = layout(tmp_path, "/nowhere/state")
    (made.upper / "nowhere").symlink_to(outside)
    mounts.hide(made)
    assert list(outside.iterdir()) == []


def test_what_the_run_wrote_under_a_hidden_path_stays(tmp_path: Path) -> None:
    made = layout(tmp_path, "/nowhere/state")
    (made.upper / "nowhere/state").mkdir(parents=True)
    (made.upper / "nowhere/state/own").write_text("own")
    for _ in range(2):
        mounts.hide(made)
    assert (made.upper / "nowhere/state/own").read_text() == "own"
    assert os.getxattr(made.upper / "nowhere/state", "trusted.overlay.opaque") == b"y"
