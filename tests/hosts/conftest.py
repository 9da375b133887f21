"""Two hosts, a and b: joined by a cable, b with an sshd that lets root of a in. Nothing of them may be left."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import traces
from tests.hosts.host import REPOSITORY, Host

AHEAD = 1_000_000  # seconds that b is longer up than a


@dataclass(frozen=True, kw_only=True)
class Hosts:
    a: Host
    b: Host


def give_key(a: Host, b: Host) -> None:
    """Make the repository on a, and bring the key to b: that, and where the repository is, is all that b has."""
    made = json.loads(a.run("criu-agent", "--json", "init", "-r", REPOSITORY))
    b.run("mkdir", "-p", "-m", "700", str(Path(made["key_file"]).parent))
    b.write(made["key_file"], a.run("cat", made["key_file"]))


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    repository = tmp_path / "repository"
    repository.mkdir(mode=0o700)
    on: list[Host] = []
    try:
        on.append(a := Host(tmp_path / "a", "a", "10.66.0.1", repository))
        on.append(b := Host(tmp_path / "b", "b", "10.66.0.2", repository, uptime=AHEAD))
        a.link_to(b)
        b.trust(a)
        b.start_sshd()
        give_key(a, b)
        yield Hosts(a=a, b=b)
    finally:
        for host in on:
            host.switch_off()
    nothing_is_left(tmp_path)


def nothing_is_left(tmp_path: Path) -> None:
    # Network namespaces, nft tables and cgroups were the hosts' own, and have gone with them.
    left: dict[str, list[str]] = {"all": ["not looked yet"]}
    deadline = time.monotonic() + 10
    while any(left.values()):
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.1)
        found = traces(tmp_path)
        left = {kind: found[kind] for kind in ("mounts", "processes")}
