"""The nftables tables that CRIU makes to hold live connections while their owners do not exist."""

import json

from criu_agent.linux import process

_PREFIX = "CRIU-"


def criu_tables() -> frozenset[str]:
    """The names of CRIU's `inet` tables in this network namespace; none where nft is not installed."""
    try:
        listed = process.run(["nft", "--json", "list", "tables"])
    except FileNotFoundError:
        return frozenset()
    if not listed.ok:
        return frozenset()
    tables = (item["table"] for item in json.loads(listed.stdout)["nftables"] if "table" in item)
    return frozenset(
        table["name"] for table in tables if table["family"] == "inet" and table["name"].startswith(_PREFIX)
    )


def delete_table(name: str) -> None:
    """Remove a table of CRIU's; one that is gone already is no error."""
    if name in criu_tables():
        process.run(["nft", "delete", "table", "inet", name])
