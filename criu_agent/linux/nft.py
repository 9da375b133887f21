"""The nftables tables that CRIU makes to hold live connections while their owners do not exist."""

_INET = 1  # NFPROTO_INET of linux/netfilter.h
_PREFIX = "CRIU-"


def criu_tables() -> frozenset[str]:
    """The names of CRIU's `inet` tables in this network namespace. Needs CAP_NET_ADMIN."""
    from pyroute2.nftables.main import NFTables

    with NFTables(nfgen_family=_INET) as nft:
        names = [table.get_attr("NFTA_TABLE_NAME") for table in nft.get_tables()]
    return frozenset(name for name in names if name.startswith(_PREFIX))


def delete_table(name: str) -> None:
    """Remove a table of CRIU's; one that is gone already is no error."""
    from pyroute2.nftables.main import NFTables

    if name in criu_tables():
        with NFTables(nfgen_family=_INET) as nft:
            nft.table("del", name=name)
