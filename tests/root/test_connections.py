"""Live TCP connections to the outside of a run, on the same host."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from criu_agent import config
from criu_agent.linux import nft
from tests.conftest import Agent

CLIENT = """
import socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print("connected", flush=True)
for line in connection.makefile():
    connection.sendall(line.upper().encode())
print("closed", flush=True)
"""
# They are there when CRIU's own comes, as those of other runs that are dumped in the same moment.
OTHERS = [f"CRIU-test-{number}" for number in range(10)]
BUSY_HOST = """#!/bin/sh
[ "$1" != dump ] || for name in {names}; do nft add table inet "$name"; done
exec {criu} "$@"
"""


@contextmanager
def busy_host(agent: Agent) -> Iterator[None]:
    """Runs that are started inside are dumped while there are OTHERS."""
    busy = agent.directory / "criu"
    busy.write_text(BUSY_HOST.format(names=" ".join(OTHERS), criu=config.load().criu))
    busy.chmod(0o755)
    agent.env["CRIU_AGENT_CRIU"] = str(busy)
    try:
        yield
    finally:
        for name in OTHERS:
            subprocess.run(["nft", "delete", "table", "inet", name], capture_output=True, check=False)


def says(connection: socket.socket, text: bytes) -> bytes:
    connection.sendall(text + b"\n")
    return connection.makefile("rb").readline().rstrip()


def table_of(agent: Agent) -> str:
    return str(agent("inspect", "client").json[0]["state"]["network_lock"])


def test_a_connection_is_held_by_the_run_s_own_table_whatever_else_there_is(agent: Agent) -> None:
    (agent.workdir / "client.py").write_text(CLIENT)
    with busy_host(agent), socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        port = str(server.getsockname()[1])
        agent("run", "-d", "--name", "client", "--", "python3", "client.py", port)
        with server.accept()[0] as connection:
            connection.settimeout(60)
            assert says(connection, b"before") == b"BEFORE"
            for text in (b"one", b"two"):
                agent("suspend", "client")
                table = table_of(agent)
                assert table in nft.criu_tables()
                assert table not in OTHERS
                agent("resume", "-d", "client")
                assert says(connection, text) == text.upper()
                assert table not in nft.criu_tables(), "it holds nothing back any more"
                assert set(OTHERS) <= nft.criu_tables(), "others are left alone"


def test_the_connections_of_a_suspended_run_that_is_removed_are_let_go(agent: Agent) -> None:
    (agent.workdir / "client.py").write_text(CLIENT)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        port = str(server.getsockname()[1])
        agent("run", "-d", "--name", "client", "--", "python3", "client.py", port)
        with server.accept()[0] as connection:
            connection.settimeout(60)
            assert says(connection, b"before") == b"BEFORE"
            agent("suspend", "client")
            table = table_of(agent)
            agent("rm", "client")
            assert table not in nft.criu_tables()
            connection.sendall(b"is anybody there\n")
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
